"""The HTTP face: a table of routes, and the ASGI application that answers by it.

Handlers live in http_*.py, by what they are about. Every answer that is not the engine's own is an OpenAI error object or a small JSON document. Bad
input is refused with a sentence; no path leads from input to a traceback. Knows paths, scopes and errors. Does not know how a route is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, Final

from consilium.gateway import (
    asgi,
    cors,
    http_config,
    http_embeddings,
    http_health,
    http_models,
    http_receipts,
    http_responses,
    http_routing,
    http_turns,
)
from consilium.gateway.asgi import Headers, Receive, Request, Scope, Send
from consilium.gateway.encodings import KNOWN
from consilium.gateway.face import LONGEST_ID, Face
from consilium.gateway.http_visit import LONGEST_PATH, HttpRoute, RouteTable, Visit
from consilium.gateway.keys import ADMIN, GENERATE, READ
from consilium.kernel import logs, trace_context
from consilium.kernel.errors import ConsiliumError, http_status, to_openai, unknown
from consilium.kernel.json_bytes import dumps
from consilium.kernel.origins import origins_of

UNKNOWN: Final = "unknown"
"""Label of what has no route."""
_log = logs.get("http")

_ASK: Final = {"POST": GENERATE}
_LOOK: Final = {"GET": READ, "HEAD": READ}
_OPEN: Final = {"GET": "", "HEAD": ""}

ROUTES: Final = (
    *(HttpRoute(path, _ASK, http_turns.play, quiet=True) for path in http_turns.ROUTES),
    HttpRoute("/tokenizer_info", _LOOK, http_turns.tokenizer_info, quiet=True),
    HttpRoute("/v1/embeddings", _ASK, http_embeddings.embed),
    HttpRoute("/v1/models", _LOOK, http_models.listing),
    HttpRoute("/v1/models/", _LOOK, http_models.one),
    HttpRoute("/v1/routing", _ASK, http_routing.explain),
    HttpRoute("/v1/receipts/", _LOOK, http_receipts.show),
    HttpRoute(
        "/v1/responses/",
        {**_LOOK, "DELETE": READ},
        http_responses.show_or_delete,
        name="stored_responses",
    ),
    HttpRoute(
        "/v1/config",
        {"GET": ADMIN, "HEAD": ADMIN, "PUT": ADMIN},
        http_config.show_or_exchange,
    ),
    HttpRoute("/health", _OPEN, http_health.alive, quiet=True),
    HttpRoute("/healthz", _OPEN, http_health.alive, quiet=True),
    HttpRoute("/ready", _OPEN, http_health.ready, quiet=True),
)
"""The gateway's own routes."""


class HttpFace:
    """The ASGI application."""

    def __init__(
        self, face: Face, *, more: Iterable[HttpRoute] = (), tells_request_id: bool = True
    ) -> None:
        """Take the wiring.

        more              further routes, such as those of rooms
        tells_request_id  False where the server in front writes the header x-request-id itself, as Serve does

        Raises ConsiliumError(config_invalid) if a path is there twice.
        """
        self._face = face
        self._table = RouteTable([*ROUTES, *more])
        self._tells_request_id = tells_request_id
        limits = face.cast.limits
        self._cors = cors.Cors(origins_of(limits.cors_origins, limits.host))
        self.streams = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        sent = _Sent(send)
        received = _Received(receive)
        request = Request.of(scope, received, sent)
        if (origin := request.headers.get("origin")) is not None:
            sent.more = lambda begun: self._cors.headers(origin, begun)
        request_id = _request_id(request) or self._face.cast.ids.new()
        headers: Headers = []
        if self._tells_request_id:
            headers.append((b"x-request-id", request_id.encode()))
        shown = request.path[:LONGEST_PATH]
        counted: str | None = UNKNOWN
        self.streams += 1
        trace = trace_context.of(request.raw_headers)
        with logs.request(request_id), trace_context.entered(trace):
            try:
                if cors.is_preflight(request):
                    counted = None
                    await self._cors.preflight(request, headers)
                    return
                path = request.path.rstrip("/") or "/"
                route = self._table.find(path, request.method)
                counted = None if route.quiet else route.label
                visit = Visit(self._face, request, route, path, headers, draining=self.draining)
                await route.handler(visit)
                if route.is_logged and not route.quiet:
                    _log.info("answered", method=request.method, path=shown, status=sent.status)
            except ConsiliumError as error:
                unread = not received.is_whole and _has_body(request)
                await _refuse(request, sent, error, headers, request_id, unread=unread)
            except Exception as error:
                _log.exception("request_failed", path=shown)
                await _refuse(request, sent, unknown(request_id, error), headers, request_id)
            finally:
                self.streams -= 1
                if counted is not None:
                    self._face.cast.meter.request(counted, sent.status)


class _Sent:
    """Remembers whether the answer has begun, so that an error knows whether it may still be one, and with which status.

    more  returns further headers for an answer that begins with these
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.status = 0
        self.more: Callable[[Headers], Headers] | None = None

    async def __call__(self, message: Any) -> None:
        if not self.begun:
            self.begun, self.status = True, message.get("status", 0)
            if self.more is not None:
                begun = list(message["headers"])
                message = {**message, "headers": begun + self.more(begun)}
        await self._send(message)


class _Received:
    """Remembers whether the body of a request was read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_whole = False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.is_whole = True
        return message


def _has_body(request: Request) -> bool:
    size = request.headers.get("content-length", "0")
    return size != "0" or "transfer-encoding" in request.headers


async def _refuse(
    request: Request,
    sent: _Sent,
    error: ConsiliumError,
    headers: Headers,
    request_id: str,
    *,
    unread: bool = False,
) -> None:
    level = _log.warning if http_status(error) < 500 else _log.error
    level(
        "refused",
        code=error.code,
        path=request.path[:LONGEST_PATH],
        **({"detail": error.detail} if error.detail else {}),
    )
    if sent.begun or error.code == "client_gone":
        return  # nobody reads it, or the answer has begun and ended itself
    if error.code == "internal":
        error.fields["request_id"] = request_id
    if (receipt := error.fields.get("receipt")) is not None:
        headers = [*headers, (b"x-consilium-receipt", str(receipt).encode())]
    if error.code == "encoding_unknown":
        headers = [*headers, (b"accept-encoding", ", ".join(KNOWN).encode())]  # RFC 9110, 12.5.3
    if error.retry_after_s is not None:
        headers = [*headers, (b"retry-after", str(max(1, round(error.retry_after_s))).encode())]
    with suppress(OSError):
        body = dumps(to_openai(error))
        if error.code == "request_too_slow":  # who was too slow is not waited for once more
            headers, unread = [*headers, (b"connection", b"close")], False
        # Whoever has shown no good key gets to read why, and does not hold a place by trickling on.
        linger_s = asgi.LINGER_SILENCE_S if error.code == "unauthenticated" else None
        await asgi.answer(
            request, http_status(error), body, headers, unread=unread, linger_s=linger_s
        )


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= LONGEST_ID and given.isascii() and given.isprintable() else ""


async def _lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a server's lifespan protocol; refuse websockets, which are not spoken here."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
