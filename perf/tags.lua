-- wrk -s tags.lua ... -- TAGS: asks for an ID of each of so many tags, tag-0 and on, in turn.
local tags, next_tag = 1, 0

init = function(args)
  tags = tonumber(args[1]) or 1
end

request = function()
  next_tag = (next_tag + 7919) % tags
  return wrk.format(nil, "/alloc?app_tag=tag-" .. next_tag)
end
