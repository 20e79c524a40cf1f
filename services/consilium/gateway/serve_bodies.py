"""Long bodies through Ray Serve: those that rooms take are read when the room takes them, and not before.

Serve reads the body of a request as fast as the caller sends it, into a queue without a bound (`ASGIDIReceiveProxy`), to notice a caller that leaves. For a prompt
that is nothing; an upload of 4 GiB to a disk that is slower than the network would lie in memory. Serve leaves the reading to the application where a request
says `x-request-disconnect-disabled: ?1`; http_proxy.py notices by itself who leaves. So that header is set on what goes to rooms, whatever the caller sent.

Serve's own pages are hidden as well, but for the health check that HAProxy asks: `/-/routes` names applications to whoever reaches a replica's port, and paths that
do not begin with a slash are answered with a hint to it.

Serve calls `middlewares` by its name: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. Knows prefixes of paths. Does not know bodies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from starlette.middleware import Middleware

from consilium.gateway.asgi import Receive, Request, Scope, Send, answer
from consilium.gateway.serve_words import InOurWords
from consilium.kernel.config import added_rooms
from consilium.kernel.errors import ConsiliumError, http_status, to_openai
from consilium.kernel.http_server import Asgi
from consilium.kernel.json_bytes import dumps
from consilium.kernel.rooms import Room, rooms

HEADER: Final = b"x-request-disconnect-disabled"
_TRUE: Final = b"?1"
HEALTH: Final = "/-/healthz"
"""Of Serve: HAProxy asks it of each replica."""


def middlewares() -> list[Middleware]:
    """Return what Serve puts in front of every HTTP server of its own."""
    known = rooms(added_rooms())
    paths = tuple(prefix.path.rstrip("/") for room in known for prefix in room.prefixes)
    return [
        Middleware(HidesServe),
        Middleware(InOurWords, rooms=paths),
        Middleware(ReadByTheApplication, rooms=known),
    ]


class HidesServe:
    """Answers 404 to what Serve would answer with its own words."""

    def __init__(self, app: Asgi) -> None:
        """Take the application behind it."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and not _is_ours(scope["path"]):
            error = ConsiliumError("route_unknown")
            request = Request.of(scope, receive, send)
            await answer(request, http_status(error), dumps(to_openai(error)))
            return
        await self._app(scope, receive, send)


def _is_ours(path: str) -> bool:
    return path == HEALTH or (path.startswith("/") and not path.startswith("/-/"))


class ReadByTheApplication:
    """Sets the header on requests to rooms."""

    def __init__(self, app: Asgi, rooms: Iterable[Room]) -> None:
        """Take the application behind it, and the rooms whose prefixes count."""
        self._app = app
        self._paths = tuple(prefix.path.rstrip("/") for room in rooms for prefix in room.prefixes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http" and self._is_for_a_room(scope["path"]):
            others = [pair for pair in scope["headers"] if pair[0].lower() != HEADER]
            scope = {**scope, "headers": [*others, (HEADER, _TRUE)]}
        await self._app(scope, receive, send)

    def _is_for_a_room(self, path: str) -> bool:
        return any(path == known or path.startswith(f"{known}/") for known in self._paths)
