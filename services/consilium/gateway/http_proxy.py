"""Rooms' HTTP, handed on by prefix: bodies go through as they come, both ways, and nothing of them is kept here. Those that come packed (gzip, deflate, zstd) are
opened on the way, so that no room has to, and a room's limit holds for what it gets.

    caller -> key and scope of the prefix -> room (internal token, signed principal, request id) -> status, headers and bytes back

Each request has a connection of its own: a kept one may have been closed by the room meanwhile, and an upload that was begun cannot be begun again here.
Knows headers, sizes and when a caller has left. Does not know what a body says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, TypeAlias, TypeVar

import httpx

from consilium.gateway import asgi, request_body
from consilium.gateway.asgi import Headers, Request
from consilium.gateway.encodings import opener
from consilium.gateway.forwarding import INNER, Forwarding, Reached
from consilium.gateway.http_visit import HttpRoute, Visit
from consilium.kernel import logs, trace_context
from consilium.kernel.calls import REQUEST_ID_KEY
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import Principal
from consilium.kernel.rooms import Prefix

T = TypeVar("T")
Drop: TypeAlias = Callable[[T], Awaitable[None]]

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to one connection (RFC 9110, 7.6.1)."""
_NOT_SENT: Final = (
    HOP_BY_HOP
    | INNER
    | trace_context.KEYS
    | {"host", "expect", "x-request-disconnect-disabled", REQUEST_ID_KEY}
)
_NOT_SHOWN: Final = HOP_BY_HOP | INNER | {"date", "server", REQUEST_ID_KEY}
_LIMIT_OF: Final = "this path"
_OF_PACKED: Final = frozenset({b"content-encoding", b"content-length"})
READS: Final = ("GET", "HEAD")
WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")
CONNECT_S: Final = 2.0
IDLE_S: Final = 60.0
"""Seconds without progress after which an answer is given up that a caller does not read, and a body that a room does not."""


class HttpProxy:
    """Hands requests on to rooms. `routes` goes into the table; `aclose` at the end."""

    def __init__(self, forwarding: Forwarding, *, answer_s: float) -> None:
        """Take the wiring; `answer_s` is how long a room may take to begin its answer, or to go on with it."""
        self._forwarding = forwarding
        timeout = httpx.Timeout(answer_s, connect=CONNECT_S, write=IDLE_S)
        no_limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._transport = httpx.AsyncHTTPTransport(limits=no_limits, trust_env=False)
        self._timeout = timeout.as_dict()

    def routes(self) -> list[HttpRoute]:
        """Return a row for each prefix, and one for what is below it."""
        return [
            route
            for reached in self._forwarding.rooms
            for prefix in reached.room.prefixes
            for route in _Handed(self, reached, prefix).routes()
        ]

    async def send(
        self,
        visit: Visit,
        reached: Reached,
        principal: Principal,
        body: AsyncIterator[bytes] | None,
    ) -> httpx.Response:
        """Send a request to a room and return its answer, whose body is not read yet. Raises ConsiliumError, httpx.TransportError."""
        if not reached.http:
            raise reached.down("it has no HTTP address")
        request = visit.request
        headers = _passed(request.raw_headers, _NOT_SENT)
        if body is not None and opener(request.headers.get("content-encoding", "")) is not None:
            headers = [pair for pair in headers if pair[0] not in _OF_PACKED]  # it is opened here
        told = {
            **self._forwarding.identity(principal),
            REQUEST_ID_KEY: logs.request_id() or "",
            **trace_context.headers(),
        }
        headers += [(name.encode(), value.encode()) for name, value in told.items()]
        url = httpx.URL(reached.http).copy_with(raw_path=_target(request))
        asked = httpx.Request(
            request.method,
            url,
            headers=headers,
            content=body,
            extensions={"timeout": self._timeout},
        )
        return await self._transport.handle_async_request(asked)

    def check(self, reached: Reached, answer: httpx.Response) -> None:
        """Raise ConsiliumError(upstream_down) if a room refuses us; its callers have been let in here already."""
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise self._forwarding.refused(reached, "HTTP status 401")
        self._forwarding.let_in(reached)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


class _Handed:
    """One prefix of one room."""

    def __init__(self, proxy: HttpProxy, reached: Reached, prefix: Prefix) -> None:
        self._proxy, self._reached, self._prefix = proxy, reached, prefix

    def routes(self) -> list[HttpRoute]:
        prefix = self._prefix
        methods = dict.fromkeys(READS, prefix.read) | dict.fromkeys(WRITES, prefix.write)
        path = prefix.path.rstrip("/")
        return [HttpRoute(place, methods, self.answer) for place in (path, f"{path}/")]

    async def answer(self, visit: Visit) -> None:
        """Hand one request on and its answer back. Raises ConsiliumError."""
        admitted = await visit.enter()
        visit.headers.extend(admitted.headers())
        _check_path(visit)
        body = _Body(visit.request, self._prefix.max_bytes)
        try:
            sending = self._proxy.send(
                visit, self._reached, admitted.principal, body.chunks() if body.is_sent else None
            )
            answer = await body.unless_gone(asyncio.ensure_future(sending), httpx.Response.aclose)
        except httpx.TransportError as error:
            raise self._failed(error) from None
        body.ended()
        try:
            self._proxy.check(self._reached, answer)
            await body.unless_gone(asyncio.ensure_future(_pump(visit, answer)))
        except httpx.TransportError as error:
            raise self._failed(error) from None
        finally:
            await answer.aclose()

    def _failed(self, error: httpx.TransportError) -> ConsiliumError:
        said = f"{type(error).__name__}: {error}"
        if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
            return ConsiliumError("deadline", said, name=f"The service {self._reached.room.name}")
        return self._reached.down(said)


class _Body:
    """The body of a request on its way, which is also how it is seen that the caller has left: an ASGI server says both in one place."""

    def __init__(self, request: Request, limit: int) -> None:
        """Take a request and the limit in bytes. Raises ConsiliumError(body_too_large) if the body is announced to be longer."""
        self._request, self._limit = request, limit
        self._read = asyncio.Event()
        size = request_body.announced(request, limit, _LIMIT_OF)
        self.is_sent = bool(size) or "transfer-encoding" in request.headers
        if not self.is_sent:
            self._read.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, opened where it came packed. Raises ConsiliumError as `request_body.pieces` does."""
        async for piece in request_body.pieces(
            self._request, self._limit, request_body.UPLOADED, _LIMIT_OF
        ):
            yield piece
        self._read.set()

    async def unless_gone(self, work: asyncio.Future[T], drop: Drop[T] | None = None) -> T:
        """Return what `work` returns, unless the caller leaves first. Raises ConsiliumError(client_gone)."""
        return await asgi.unless_gone(self._request, work, drop, after=self._read)

    def ended(self) -> None:
        """Say that no more of the body is asked for: the room has answered."""
        self._read.set()


async def _pump(visit: Visit, answer: httpx.Response) -> None:
    """Send a room's answer on. Raises ConsiliumError(client_gone), also for a caller that has stopped reading; httpx.TransportError."""

    async def send(message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                await visit.request.send(message)
        except TimeoutError:
            raise ConsiliumError("client_gone", f"it read nothing for {IDLE_S:g} s") from None
        except OSError as error:
            raise ConsiliumError("client_gone", str(error)) from error

    headers = [*_passed(answer.headers.raw, _NOT_SHOWN), *visit.headers]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
    async for chunk in answer.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _passed(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[str]) -> Headers:
    """Return headers without those that are dropped and those that `Connection` names."""
    pairs = [(name.decode("latin-1").lower(), value) for name, value in headers]
    named = {
        word.strip().lower()
        for name, value in pairs
        if name == "connection"
        for word in value.decode("latin-1").split(",")
    }
    return [
        (name.encode("latin-1"), value)
        for name, value in pairs
        if name not in dropped and name not in named
    ]


def _target(request: Request) -> bytes:
    """Return path and query as the caller wrote them."""
    return request.raw_path + (b"?" + request.query.encode("latin-1") if request.query else b"")


def _check_path(visit: Visit) -> None:
    """Refuse a path that a room could read otherwise than the table did, such as one with '..'. Raises ConsiliumError(invalid_request)."""
    if any(part in ("", ".", "..") for part in visit.path.split("/")[1:]):
        raise ConsiliumError(
            "invalid_request",
            field="path",
            reason="it has an empty part, '.' or '..'. Write the plain path",
        )
