"""The body of a request: read within its limit, opened where it comes packed, and given up where it trickles.

    pieces   as they come, for what is passed on
    read     the whole

Counted is what comes over the wire and what comes out of it; both have the one limit. Knows sizes, encodings and time. Does not know what a body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from consilium.gateway.asgi import Request
from consilium.gateway.encodings import opener
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.service_config import MAX_BODY_KEY


@dataclass(frozen=True, slots=True)
class Pace:
    """How slowly a body may come.

    silence_s      seconds without a byte
    slack_s        seconds that every body has, however short
    bytes_per_s    slower than this, over the whole and beside the slack, it may not be
    """

    silence_s: float
    slack_s: float
    bytes_per_s: float


SPOKEN: Final = Pace(silence_s=10.0, slack_s=10.0, bytes_per_s=8192.0)
"""Of what a person or a program asks: JSON, in one go."""
UPLOADED: Final = Pace(silence_s=60.0, slack_s=60.0, bytes_per_s=1024.0)
"""Of what rooms take: files, perhaps over a bad line."""


def announced(request: Request, limit: int, key: str = MAX_BODY_KEY) -> int | None:
    """Return the bytes that the caller says its body has, or None where it does not say. Raises ConsiliumError(body_too_large).

    key  whose limit it is, for the sentence
    """
    said = request.headers.get("content-length", "")
    size = int(said) if said.isdigit() else None
    if size is not None and size > limit:
        raise _too_large(size, key, limit)
    return size


GRACE_S: Final = 0.1
"""Seconds in which nearly every short body is here. Only a caller whose body takes longer is looked up before it has come."""


async def read(
    request: Request,
    limit: int,
    pace: Pace = SPOKEN,
    late: Callable[[], Awaitable[object]] | None = None,
) -> bytes:
    """Return the whole body.

    late  asked once, if the body is not here soon: whether this caller is to be waited for

    Raises ConsiliumError as `pieces` and `late` do.
    """
    parts = [part async for part in pieces(request, limit, pace, late=late)]
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def pieces(
    request: Request,
    limit: int,
    pace: Pace,
    key: str = MAX_BODY_KEY,
    late: Callable[[], Awaitable[object]] | None = None,
) -> AsyncIterator[bytes]:
    """Yield the body as it comes, opened. No piece is empty. `key` says whose limit it is, `late` is as for `read`.

    Raises ConsiliumError: encoding_unknown and body_too_large (before it is all read), request_too_slow, client_gone, invalid_request (not of its encoding).
    """
    opens = opener(request.headers.get("content-encoding", ""))
    announced(request, limit, key)
    size = 0
    async for part in _wire(request, limit, pace, key, late):
        if opens is None:
            yield part
            continue
        for piece in opens.feed(part):
            size += len(piece)
            if size > limit:
                raise _too_large(size, key, limit)
            if piece:
                yield piece
    if opens is not None:
        opens.finish()


async def _wire(
    request: Request,
    limit: int,
    pace: Pace,
    key: str,
    late: Callable[[], Awaitable[object]] | None,
) -> AsyncIterator[bytes]:
    """Yield what comes over the wire."""
    now = asyncio.get_running_loop().time
    waited_s, size, is_last = 0.0, 0, False
    while not is_last:
        begun, left_s = now(), pace.slack_s + size / pace.bytes_per_s - waited_s
        wait_s = min(pace.silence_s, left_s, pace.silence_s if late is None else GRACE_S - waited_s)
        try:
            async with asyncio.timeout(max(0.0, wait_s)):
                message = await request.receive()
        except TimeoutError:
            waited_s += now() - begun
            if late is not None:
                ask, late = late, None
                await ask()
                continue
            reason = f"{size} bytes of its body came in {waited_s:.0f} s"
            raise ConsiliumError("request_too_slow", reason=reason) from None
        waited_s += now() - begun  # and not the time in which whoever takes the body was busy
        if message["type"] == "http.disconnect":
            raise ConsiliumError("client_gone")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise _too_large(size, key, limit)
        is_last = not message.get("more_body", False)
        if part:
            yield part


def _too_large(size: int, key: str, limit: int) -> ConsiliumError:
    return ConsiliumError("body_too_large", size=size, key=key, limit=limit)
