"""A tag's life, through a client that was generated from the document."""

import sys

from operators_port import Client
from operators_port.api.default import (
    add_tag,
    advance_tag,
    advance_tag_by_name,
    change_tag,
    delete_tag,
    show_tag_by_name,
)
from operators_port.models import Advance, NewTag, Tag, TagChange

client = Client(base_url=sys.argv[1])


def done(answer, status=200):
    assert answer.status_code == status, (answer.status_code, answer.content)
    return answer.parsed


for name in ["gone", "kept"]:
    tag = NewTag(app_tag=name, step=10, start="5", description="a")
    assert isinstance(done(add_tag.sync_detailed(client=client, body=tag), 201), Tag)
change = TagChange(step="20", description="b")
assert done(change_tag.sync_detailed("kept", client=client, body=change)).step == 20
assert done(advance_tag.sync_detailed("kept", client=client, body=Advance(to=700))).max_id == "700"
# No body: as far as this server was granted the tag.
done(advance_tag_by_name.sync_detailed(client=client, app_tag="test_business"))
assert done(show_tag_by_name.sync_detailed(client=client, app_tag="kept")).max_id == "700"
done(delete_tag.sync_detailed("gone", client=client, confirm="gone"), 204)
