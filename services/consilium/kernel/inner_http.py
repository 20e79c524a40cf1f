"""A room's HTTP as the inside of the cluster sees it: token and principal on every request, errors as everywhere, and the open page of the process.

    GET /metrics, GET /healthz     open to whoever reaches the port; HEAD and gzip too
    everything else                the token, else 401; then scope["principal"] says who asks, and `calls.current()` as well

A room's application raises ConsiliumError and writes no error bodies. Knows headers and scopes of ASGI. Does not know routes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.kernel import calls, logs, trace_context
from consilium.kernel.clock import Ids
from consilium.kernel.errors import ConsiliumError, http_status, to_openai, unknown
from consilium.kernel.http_server import Asgi, Receive, Scope, Send
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.metrics import CONTENT_TYPE, OTHER, packed

METRICS_PATH: Final = "/metrics"
HEALTH_PATH: Final = "/healthz"
OPEN_PATHS: Final = (METRICS_PATH, HEALTH_PATH)
METHODS: Final = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})
"""Methods that have a name in the metrics."""


@dataclass(frozen=True, slots=True)
class Page:
    """The page that every process has.

    metrics  returns the figures in the text format
    state    returns `ok` while the process serves, or what it does instead: starting, draining
    """

    metrics: Callable[[], str]
    state: Callable[[], str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  it reads no body
        """Answer as an ASGI application."""
        if scope["path"] not in OPEN_PATHS:
            await _text(scope, send, 404, "not found\n")
        elif scope["method"] not in ("GET", "HEAD"):
            await _text(
                scope, send, 405, "use GET\n", _type("text/plain"), (b"allow", b"GET, HEAD")
            )
        elif scope["path"] == METRICS_PATH:
            await _text(scope, send, 200, self.metrics(), _type(CONTENT_TYPE))
        else:
            state = self.state()
            await _text(scope, send, 200 if state == "ok" else 503, f"{state}\n")


@dataclass(frozen=True, slots=True)
class Ended:
    """A request that is over, for metrics. `code` is the HTTP status, or 499 if the caller left before there was one."""

    method: str
    code: int
    seconds: float


class InnerHttp:
    """Wraps the ASGI application of a room.

    observe  is told of each request that has ended
    """

    def __init__(
        self,
        app: Asgi,
        auth: InnerAuth,
        page: Page,
        ids: Ids,
        observe: Callable[[Ended], None] = lambda _ended: None,
    ) -> None:
        self._app = app
        self._auth = auth
        self._page = page
        self._ids = ids
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        if scope["path"] in OPEN_PATHS:
            await self._page(scope, receive, send)
            return
        began = time.monotonic()
        answer = _Answer(receive, send)
        try:
            await self._served(scope, answer)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            code = answer.status or http_status(ConsiliumError("client_gone"))
            self._observe(Ended(method, code, time.monotonic() - began))

    async def _served(self, scope: Scope, answer: _Answer) -> None:
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        request_id = calls.request_id_from(headers.get(calls.REQUEST_ID_KEY)) or self._ids.new()
        logs.set_request_id(request_id)
        trace_context.enter(trace_context.of(scope["headers"]))
        name = f"{scope['method']} {scope['path']}"
        try:
            principal = self._auth.principal(headers)
            scope["principal"] = principal
            calls.enter(calls.Call(name, request_id, math.inf, principal))
            await self._app(scope, answer.receive, answer.send)
        except Exception as error:
            told = error if isinstance(error, ConsiliumError) else unknown(request_id, error)
            if answer.is_gone:
                logs.get("http").info("caller_left", request=name)
                return
            if told is not error:
                logs.get("http").exception("request_broke", request=name)
            elif told.detail:
                logs.get("http").info(
                    "request_refused", request=name, code=told.code, detail=told.detail
                )
            if answer.status is not None:
                # The beginning is said already: only a connection that breaks off tells that the rest is missing.
                raise
            await _refuse(scope, answer.send, told, request_id)


class _Answer:
    """What went over one request's wire: the status that was sent, and whether the caller has left."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.status: int | None = None
        self.is_gone = False

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next message of the caller."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.is_gone = True
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


async def _refuse(scope: Scope, send: Send, error: ConsiliumError, request_id: str) -> None:
    headers = [_type("application/json"), (calls.REQUEST_ID_KEY.encode(), request_id.encode())]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(error.retry_after_s)).encode()))
    body = json.dumps(to_openai(error), ensure_ascii=False).encode()
    await _send(scope, send, http_status(error), body, headers)


async def _text(
    scope: Scope, send: Send, status: int, text: str, *headers: tuple[bytes, bytes]
) -> None:
    accepted = dict(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")
    body, encoding = packed(text, accepted)
    more = [*(headers or [_type("text/plain; charset=utf-8")]), (b"vary", b"accept-encoding")]
    if encoding:
        more.append((b"content-encoding", encoding.encode()))
    await _send(scope, send, status, body, more)


async def _send(
    scope: Scope, send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _type(media: str) -> tuple[bytes, bytes]:
    return b"content-type", media.encode()
