"""Browsers: which pages may call, and which headers of an answer they may read (the CORS protocol of the Fetch standard).

Keys travel in the Authorization header and never in a cookie, so no answer allows credentials. Knows headers. Does not know routes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from consilium.gateway.asgi import Headers, Request
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.origins import Origins

METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
PREFLIGHT_S: Final = 600
"""Seconds for which a browser need not ask again."""
EXPOSED: Final = (
    "x-request-id",
    "x-consilium-receipt",
    "x-consilium-tools",
    "retry-after",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
)
"""Headers that a page may read in every answer; beside them whatever an answer has."""
_ALWAYS_READ: Final = frozenset({"cache-control", "content-length", "content-type", "vary"})
_USUAL: Final = "authorization, content-type"


def is_preflight(request: Request) -> bool:
    """Say whether a browser asks if a page may call."""
    return (
        request.method == "OPTIONS"
        and "origin" in request.headers
        and "access-control-request-method" in request.headers
    )


class Cors:
    """The pages that may call, as headers."""

    def __init__(self, origins: Origins) -> None:
        self._origins = origins

    async def preflight(self, request: Request, headers: Headers) -> None:
        """Answer a preflight, whatever the path: what is not there then gets its 404 where the page can read it. Raises ConsiliumError(forbidden)."""
        origin = request.headers["origin"]
        if not self._origins.allow(origin):
            raise ConsiliumError(
                "forbidden",
                reason=f"Pages of {origin[:100]!r} may not call. Add it to gateway.cors_origins.",
            )
        wanted = request.headers.get("access-control-request-headers") or _USUAL
        told = [
            *headers,
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", wanted.encode("latin-1")),
            (b"access-control-max-age", b"%d" % PREFLIGHT_S),
        ]
        if request.headers.get("access-control-request-private-network") == "true":
            told.append((b"access-control-allow-private-network", b"true"))
        await request.send({"type": "http.response.start", "status": 204, "headers": told})
        await request.send({"type": "http.response.body", "body": b""})

    def headers(self, origin: str, answer: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return what is added to an answer for a page: nothing that lets it read where it may not call.

        answer  the headers that the answer has
        """
        vary: Headers = [] if self._origins.is_any else [(b"vary", b"origin")]
        if not self._origins.allow(origin):
            return vary
        names = {name.decode("latin-1").lower() for name, _ in answer}
        shown = dict.fromkeys((*EXPOSED, *sorted(names - _ALWAYS_READ - set(EXPOSED))))
        allowed = b"*" if self._origins.is_any else origin.encode("latin-1")
        return [
            *vary,
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", ", ".join(shown).encode("latin-1")),
        ]
