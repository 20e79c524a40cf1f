import pytest
from tests.greeter.room import ROOM

from consilium.gateway.serve_bodies import HEADER, ReadByTheApplication


@pytest.mark.parametrize(
    ("path", "kind", "sent", "told"),
    [
        ("/v1/greeter", "http", [], [b"?1"]),
        ("/v1/greeter/files/x", "http", [], [b"?1"]),
        ("/v1/greeter/files/x", "http", [(HEADER, b"?0")], [b"?1"]),
        ("/v1/greeters", "http", [], []),
        ("/v1/chat/completions", "http", [], []),
        ("/v1/greeter", "lifespan", [], []),
    ],
)
async def test_what_goes_to_rooms_is_not_read_ahead(path, kind, sent, told):
    seen = []

    async def app(scope, _receive, _send):
        seen.extend(value for name, value in scope["headers"] if name == HEADER)

    scope = {"type": kind, "path": path, "headers": sent}
    await ReadByTheApplication(app, [ROOM])(scope, None, None)
    assert seen == told
    assert scope["headers"] == sent
