import pytest
from tests.greeter.room import ROOM

from consilium.gateway.serve_bodies import HEADER, HidesServe, ReadByTheApplication


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


@pytest.mark.parametrize(
    ("path", "passes"),
    [
        ("/", True),
        ("/v1/models", True),
        ("/-/healthz", True),
        ("/-/routes", False),
        ("/-/x", False),
        ("*", False),
        ("", False),
    ],
)
async def test_pages_of_serve_are_hidden(path, passes):
    seen, sent = [], []

    async def app(scope, _receive, _send):
        seen.append(scope["path"])

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    await HidesServe(app)(scope, None, send)
    assert seen == ([path] if passes else [])
    if not passes:
        assert sent[0]["status"] == 404
        assert b"route_unknown" in sent[1]["body"]
