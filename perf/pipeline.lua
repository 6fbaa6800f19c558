-- wrk -s pipeline.lua ... -- DEPTH: sends that many requests at once.
init = function(args)
  local depth = tonumber(args[1]) or 16
  local requests = {}
  for i = 1, depth do
    requests[i] = wrk.format()
  end
  whole = table.concat(requests)
end

request = function()
  return whole
end
