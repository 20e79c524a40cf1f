"""The little of ASGI that the HTTP face needs: read JSON, write JSON or a stream, notice a client that has gone.

Knows scopes, bytes and headers. Does not know routes or turns. Plain ASGI, because a framework's share of a streamed token is most of its cost here.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.unread import Reading

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

T = TypeVar("T")
JSON_TYPE: Final = b"application/json"
LINGER_S: Final = 10.0
LINGER_SILENCE_S: Final = 2.0
"""Seconds that a caller has to finish sending what nobody reads, in all and without a byte."""
_MARKS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
"""Strings as wholes, and brackets outside them."""


_HALF_PAIR: Final = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, its body not read yet.

    path         decoded
    raw_path     as the caller wrote it, without the query
    headers      names in lower case; of several with one name the last
    raw_headers  all of them, as they came
    """

    method: str
    path: str
    raw_path: bytes
    query: str
    headers: dict[str, str]
    raw_headers: Headers
    receive: Receive
    send: Send

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Request:
        """Return the request of an ASGI scope."""
        raw: Headers = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
        return cls(
            scope["method"],
            scope["path"],
            scope.get("raw_path") or quote(scope["path"]).encode(),
            scope.get("query_string", b"").decode("latin-1"),
            {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw},
            raw,
            receive,
            send,
        )


def parse_object(raw: bytes, max_depth: int) -> dict[str, Any]:
    """Return a JSON object. Raises ConsiliumError(invalid_request) for anything else, and for one that nests deeper than `max_depth`."""
    if _depth_bound(raw) > max_depth and _depth(raw, max_depth) > max_depth:
        raise ConsiliumError(
            "invalid_request",
            field="body",
            reason=f"the JSON nests deeper than {max_depth} levels. Send a flatter one",
        )
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise ConsiliumError(
            "invalid_request",
            field="body",
            reason=f"not JSON: {str(err)[:120]}. Send one JSON object",
        ) from None
    if _HALF_PAIR.search(raw) and not _is_text(value):
        raise ConsiliumError(
            "invalid_request",
            field="body",
            reason="it holds half of a surrogate pair, which is no character. Send whole characters",
        )
    if not isinstance(value, dict):
        raise ConsiliumError(
            "invalid_request",
            field="body",
            reason=f"the JSON is a {type(value).__name__}. Send one JSON object",
        )
    return value


def _is_text(value: object) -> bool:
    """Say whether every text in a JSON value can be written as UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _depth_bound(raw: bytes) -> int:
    """Return a number that the depth cannot exceed, by two fast counts."""
    return raw.count(b"{") + raw.count(b"[")


def _depth(raw: bytes, enough: int) -> int:
    """Return the depth of nesting, strings left out; counting ends above `enough`."""
    deepest = depth = 0
    for found in _MARKS.finditer(raw):
        mark = found[0][:1]
        if mark in b"{[":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > enough:
                break
        elif mark in b"}]":
            depth -= 1
    return deepest


async def answer(
    request: Request,
    status: int,
    body: bytes,
    headers: Iterable[tuple[bytes, bytes]] = (),
    media: bytes = JSON_TYPE,
    *,
    unread: bool = False,
    linger_s: float | None = None,
) -> None:
    """Send a whole answer.

    unread    the caller may still be sending its body, which nobody wants: the connection is closed behind the answer, but not while it sends, or it would see
              a broken connection in place of the answer
    linger_s  how long that may take at most; None = LINGER_S
    """
    fixed = [(b"content-type", media), (b"content-length", str(len(body)).encode())]
    if unread:
        fixed.append((b"connection", b"close"))
    await request.send(
        {"type": "http.response.start", "status": status, "headers": [*fixed, *headers]}
    )
    said = b"" if request.method == "HEAD" else body
    if unread:
        await request.send({"type": "http.response.body", "body": said, "more_body": True})
        await _let_finish(request.receive, LINGER_S if linger_s is None else linger_s)
        said = b""
    await request.send({"type": "http.response.body", "body": said})


async def _let_finish(receive: Receive, limit_s: float) -> None:
    """Throw away what a caller still sends, for a while."""
    with suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while True:
                async with asyncio.timeout(LINGER_SILENCE_S):
                    message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return


async def stream(
    request: Request,
    status: int,
    chunks: AsyncIterator[bytes],
    headers: Iterable[tuple[bytes, bytes]],
    media: bytes,
    *,
    unread_s: float = 0.0,
) -> None:
    """Send chunks as they come; the chunks' source is left to the caller.

    unread_s  seconds that one write may wait for the client to read; 0 = as long as it takes

    Raises ConsiliumError: client_gone when the client closes the connection, deadline when it has stopped reading.
    """
    with Reading(unread_s) if unread_s else nullcontext() as reading:
        reader = request
        if reading is not None:
            watched, send = reading, request.send
            reader = replace(request, send=lambda message: watched.write(send(message)))
        await unless_gone(
            request, asyncio.ensure_future(_pump(reader, status, chunks, headers, media))
        )


async def unless_gone(
    request: Request,
    work: asyncio.Future[T],
    drop: Callable[[T], Awaitable[None]] | None = None,
    *,
    after: asyncio.Event | None = None,
) -> T:
    """Return what `work` returns, unless the client leaves first: then it is cancelled. Raises ConsiliumError(client_gone).

    drop   takes what `work` has returned where nobody else will: it was done in the moment in which the client left or we were cancelled
    after  set when nobody else receives any more; until then the client is not looked for
    """
    gone = asyncio.ensure_future(disconnected(request.receive, after))
    both: set[asyncio.Future[Any]] = {gone, work}
    is_taken = False
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            is_taken = True
            return work.result()
        raise ConsiliumError("client_gone")
    finally:
        gone.cancel()
        if not is_taken:
            work.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await gone
        if not is_taken:
            with suppress(asyncio.CancelledError, Exception):
                left = await work
                if drop is not None:
                    await drop(left)


async def _pump(
    request: Request,
    status: int,
    chunks: AsyncIterator[bytes],
    headers: Iterable[tuple[bytes, bytes]],
    media: bytes,
) -> None:
    # No buffering on the way: nginx reads x-accel-buffering, caches read cache-control.
    fixed = [
        (b"content-type", media),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    await request.send(
        {"type": "http.response.start", "status": status, "headers": [*fixed, *headers]}
    )
    try:
        async for chunk in chunks:
            await request.send({"type": "http.response.body", "body": chunk, "more_body": True})
        await request.send({"type": "http.response.body", "body": b""})
    except OSError as err:
        raise ConsiliumError("client_gone", str(err)) from err


async def disconnected(receive: Receive, after: asyncio.Event | None = None) -> None:
    """Return when the client has closed the connection; look for that once `after` is set."""
    if after is not None:
        await after.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
