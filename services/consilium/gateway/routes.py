"""The HTTP face: OpenAI routes, each a few lines over turn.py.

Every answer that is not the engine's own is an OpenAI error object or a small JSON document. Bad input is refused here with a sentence; no path leads
from input to a traceback. Knows paths, headers and statuses. Does not know how a turn is played.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consilium.engine.client import CORE, State
from consilium.engine.ports import Route
from consilium.gateway import admission, asgi, conversation, models, turn
from consilium.gateway.asgi import Headers, Receive, Request, Scope, Send
from consilium.gateway.authority import Admitted, Authority
from consilium.gateway.executor_states import Watch
from consilium.gateway.keys import ADMIN, GENERATE, READ
from consilium.gateway.stores import ReceiptStore, ResponseStore
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError, http_status, to_openai, unknown
from consilium.kernel.json_bytes import dumps

_log = logs.get("http")

TURNS: Final[Mapping[str, Route]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/responses": "responses",
    "/tokenize": "tokenize",
    "/detokenize": "detokenize",
}
OPEN: Final = frozenset({"/health", "/healthz", "/ready"})
QUIET: Final = OPEN | TURNS.keys()
"""Paths without a log line here: a turn writes its own, and probes come every second."""
KNOWN: Final = (*TURNS, "/v1/embeddings", "/v1/models", "/v1/receipts", "/health", "/ready")
LONGEST_ID: Final = 64
"""Characters of an id that are looked at: receipts, responses, requests."""
HTTP_OK: Final = 200
EMBEDDINGS: Final = "embeddings"
READ_S: Final = 10.0
"""Seconds that a caller has to read the rest of its answer when the time of the turn is over."""
_STARTED: Final = time.time()


class Embedder(Protocol):
    """Answers /v1/embeddings with the model of that name."""

    model: str

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object. Raises ConsiliumError."""


@dataclass(frozen=True, slots=True)
class Face:
    """What the HTTP face stands on."""

    cast: turn.Cast
    authority: Authority
    receipts: ReceiptStore
    responses: ResponseStore
    embeddings: Embedder
    watch: Watch

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object; meanwhile it counts as in work, so that who drains waits for it. Raises ConsiliumError."""
        try:
            with self.cast.gate.beside(EMBEDDINGS):
                self.cast.meter.inflight(EMBEDDINGS)
                return await self.embeddings.create(body)
        finally:
            self.cast.meter.inflight(EMBEDDINGS)


class HttpFace:
    """The ASGI application."""

    def __init__(self, face: Face, *, tells_request_id: bool = True) -> None:
        """Take the wiring; `tells_request_id` False where the server in front writes the header x-request-id itself, as Serve does."""
        self._face = face
        self._tells_request_id = tells_request_id
        self.streams = 0
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await _lifespan(scope, receive, send)
            return
        request = Request.of(scope, receive, send)
        request_id = _request_id(request) or self._face.cast.ids.new()
        sent = _Sent(send)
        request = Request(
            request.method, request.path, request.query, request.headers, receive, sent
        )
        headers: Headers = (
            [(b"x-request-id", request_id.encode())] if self._tells_request_id else []
        )
        self.streams += 1
        with logs.request(request_id):
            try:
                path = request.path.rstrip("/") or "/"
                await self._route(request, path, headers)
                if path not in QUIET:
                    _log.info(
                        "answered",
                        method=request.method,
                        path=request.path[:100],
                        status=sent.status,
                    )
            except ConsiliumError as error:
                await _refuse(request, sent, error, headers, request_id)
            except Exception as error:
                _log.exception("request_failed", path=request.path[:100])
                await _refuse(request, sent, unknown(request_id, error), headers, request_id)
            finally:
                self.streams -= 1

    async def _route(self, request: Request, path: str, headers: Headers) -> None:
        if path in TURNS:
            _only(request, "POST")
            await self._turn(request, TURNS[path], headers)
        elif path == "/v1/embeddings":
            _only(request, "POST")
            await self._embeddings(request, headers)
        elif path in OPEN:
            _only(request, "GET", "HEAD")
            await self._health(request, path)
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            _only(request, "GET", "HEAD")
            await self._models(request, path.removeprefix("/v1/models").lstrip("/"), headers)
        elif path.startswith("/v1/receipts/"):
            _only(request, "GET", "HEAD")
            await self._receipt(request, path.removeprefix("/v1/receipts/"), headers)
        elif path.startswith("/v1/responses/"):
            _only(request, "GET", "HEAD", "DELETE")
            await self._response(request, path.removeprefix("/v1/responses/"), headers)
        else:
            near = difflib.get_close_matches(path[:100], KNOWN, n=1, cutoff=0.3) or [
                "/v1/chat/completions"
            ]
            raise ConsiliumError("route_unknown", name=path[:100], nearest=near[0])

    async def _turn(self, request: Request, route: Route, headers: Headers) -> None:
        deadline = _deadline(request)
        body, size, admitted = await self._enter(request, headers)
        given = body
        if route == "responses":
            try:
                body = await self._continue(body, admitted)
            except ConsiliumError:
                await self._face.cast.settle(admitted.key_id, admitted.reserved, 0)
                raise
        ask = turn.Ask(
            route,
            body,
            size,
            admitted.key_id,
            admitted.reserved,
            deadline,
            admitted.notes,
            admitted.principal.tenant,
        )
        while_here = asyncio.ensure_future(turn.play(self._face.cast, ask))
        playing = await asgi.unless_gone(request, while_here, turn.Playing.aclose)
        head = playing.head
        headers = [*headers, (b"x-consilium-receipt", playing.receipt_id.encode())]
        if head.retry_after is not None:
            headers.append((b"retry-after", str(max(1, round(head.retry_after))).encode()))
        keep = route == "responses" and head.status == HTTP_OK
        try:
            if head.stream:
                chunks = (
                    self._remembering(given, body, playing, admitted) if keep else aiter(playing)
                )
                async with asyncio.timeout(
                    self._left_s(deadline) + READ_S
                ):  # who does not read holds no place for longer than an answer may take
                    await asgi.stream(
                        request, head.status, chunks, headers, head.content_type.encode()
                    )
            else:
                whole = await asgi.unless_gone(request, asyncio.ensure_future(_collect(playing)))
                if keep:
                    whole = await self._remembered(whole, given, body, admitted)
                await asgi.answer(request, head.status, whole, headers, head.content_type.encode())
        except TimeoutError:
            raise ConsiliumError(
                "deadline",
                "the caller did not read its answer",
                name=playing.executor,
                receipt=playing.receipt_id,
            ) from None
        finally:
            await playing.aclose()

    def _left_s(self, deadline: float | None) -> float:
        """Return the seconds until a deadline in Unix seconds, or those that a turn may take."""
        return (
            self._face.cast.limits.request_timeout_s
            if deadline is None
            else max(0.0, deadline - time.time())
        )

    async def _enter(
        self, request: Request, headers: Headers
    ) -> tuple[dict[str, Any], int, Admitted]:
        """Read the body and let the caller in: key, scope, quota. The headers get the quota's state."""
        limits = self._face.cast.limits
        self._face.authority.check_spelling(
            request.headers.get("authorization")
        )  # who shows no key costs no reading and no parsing
        raw = await asgi.read_body(request, limits.max_body_bytes)
        body = asgi.parse_object(raw, limits.max_json_depth)
        admitted = await self._face.authority.authenticate(
            request.headers.get("authorization"),
            admission.estimate_tokens(body, len(raw)),
            GENERATE,
        )
        headers += admitted.headers()
        return body, len(raw), admitted

    async def _embeddings(self, request: Request, headers: Headers) -> None:
        deadline = _deadline(request)
        body, _, admitted = await self._enter(request, headers)
        used = 0
        try:
            async with asyncio.timeout(self._left_s(deadline)):
                made = await asgi.unless_gone(
                    request, asyncio.ensure_future(self._face.embed(body))
                )
            used = int(made["usage"]["total_tokens"])
        except TimeoutError:
            raise ConsiliumError("deadline", name="The embedder", retry_after_s=1.0) from None
        finally:
            await self._face.cast.settle(admitted.key_id, admitted.reserved, used)
        await asgi.answer(request, HTTP_OK, dumps(made), headers)

    async def _models(self, request: Request, name: str, headers: Headers) -> None:
        await self._face.authority.authenticate(request.headers.get("authorization"), 0, READ)
        cast = self._face.cast
        listed = models.listing(
            cast.frames,
            cast.engine.executors(),
            created=int(_STARTED),
            embeds=self._face.embeddings.model,
        )
        if not name:
            await asgi.answer(request, HTTP_OK, dumps({"object": "list", "data": listed}), headers)
            return
        for item in listed:
            if item["id"] == name:
                await asgi.answer(request, HTTP_OK, dumps(item), headers)
                return
        near = difflib.get_close_matches(name, [str(item["id"]) for item in listed], n=1, cutoff=0)
        raise ConsiliumError("model_unknown", name=name[:100], nearest=near[0] if near else "base")

    async def _receipt(self, request: Request, name: str, headers: Headers) -> None:
        admitted = await self._face.authority.authenticate(
            request.headers.get("authorization"), 0, READ
        )
        found = await self._face.receipts.get(name[:LONGEST_ID])
        if found is None or not admitted.may_read(str(found.get("key_id", ""))):
            raise ConsiliumError(
                "receipt_unknown",
                name=name[:LONGEST_ID],
                kept=span(self._face.cast.limits.receipt_ttl_s),
            )
        if not admitted.principal.may(ADMIN):
            found = {name: value for name, value in found.items() if name != "key_id"}
        await asgi.answer(request, HTTP_OK, dumps(found), headers)

    async def _response(self, request: Request, name: str, headers: Headers) -> None:
        admitted = await self._face.authority.authenticate(
            request.headers.get("authorization"), 0, READ
        )
        stored = await self._stored(name, admitted)
        if request.method == "DELETE":
            await self._face.responses.delete(name[:LONGEST_ID])
            await asgi.answer(
                request,
                HTTP_OK,
                dumps({"id": name, "object": "response", "deleted": True}),
                headers,
            )
            return
        await asgi.answer(request, HTTP_OK, dumps(stored.response), headers)

    async def _continue(self, body: dict[str, Any], admitted: Admitted) -> dict[str, Any]:
        if body.get("background") is True:
            raise ConsiliumError(
                "not_supported",
                reason="background: true is not supported yet; send the request without it",
                param="background",
            )
        previous = body.get("previous_response_id")
        if previous is None:
            return conversation.continued(body, None)
        if not isinstance(previous, str):
            raise ConsiliumError(
                "invalid_request",
                field="previous_response_id",
                reason="it must be a string, the id of an earlier response",
            )
        return conversation.continued(body, await self._stored(previous, admitted))

    async def _stored(self, name: str, admitted: Admitted) -> conversation.Stored:
        raw = await self._face.responses.get(name[:LONGEST_ID])
        stored = conversation.of(raw) if raw is not None else None
        if stored is None or not admitted.may_read(stored.owner):
            raise ConsiliumError(
                "response_unknown",
                name=name[:LONGEST_ID],
                kept=span(self._face.cast.limits.receipt_ttl_s),
            )
        return stored

    async def _remembering(
        self, given: dict[str, Any], sent: dict[str, Any], playing: turn.Playing, admitted: Admitted
    ) -> AsyncIterator[bytes]:
        """Yield a stream; its response is stored before its last bytes go out, so that the next request may name it at once."""
        async for chunk in playing:
            if playing.last:
                await self._store(
                    conversation.finished(playing.last, streamed=True), given, sent, admitted
                )
            yield chunk

    async def _remembered(
        self, whole: bytes, given: dict[str, Any], sent: dict[str, Any], admitted: Admitted
    ) -> bytes:
        """Store a response and return it with what this room adds: the earlier one's id, and whether it is kept."""
        made = conversation.finished(whole, streamed=False)
        if made is None:
            return whole
        told = conversation.told(made, given)
        await self._store(made, given, sent, admitted)
        return dumps(told)

    async def _store(
        self,
        made: dict[str, Any] | None,
        given: dict[str, Any],
        sent: dict[str, Any],
        admitted: Admitted,
    ) -> None:
        if made is None or not conversation.wants_store(given):
            return
        plain = {
            key: value
            for key, value in conversation.told(made, given).items()
            if key != "consilium"
        }
        kept = conversation.Stored(plain, conversation.items(sent.get("input")), admitted.key_id)
        name = str(plain["id"])
        try:
            earlier = await self._face.responses.get(name)
            if (
                earlier is not None and conversation.of(earlier).owner != admitted.key_id
            ):  # a remote server chooses its ids itself
                _log.warning("response_not_kept", code="id_taken")
                return
            await self._face.responses.put(name, kept.as_dict(), admitted.key_id)
        except ConsiliumError as error:
            _log.warning("response_not_kept", code=error.code)

    async def _health(self, request: Request, path: str) -> None:
        """/health: this process answers. /ready: the core generates."""
        if path != "/ready":
            await asgi.answer(request, HTTP_OK, b'{"status":"ok"}')
            return
        states = await self._face.watch.states()
        ready = states.get(CORE) is State.READY and not self.draining
        body = {"ready": ready, "executors": {name: state.value for name, state in states.items()}}
        await asgi.answer(
            request,
            HTTP_OK if ready else 503,
            dumps(body),
            [] if ready else [(b"retry-after", b"2")],
        )


class _Sent:
    """Remembers whether the answer has begun, so that an error knows whether it may still be one, and with which status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.status = 0

    async def __call__(self, message: Any) -> None:
        if not self.begun:
            self.begun, self.status = True, message.get("status", 0)
        await self._send(message)


async def _refuse(
    request: Request, sent: _Sent, error: ConsiliumError, headers: Headers, request_id: str
) -> None:
    level = _log.warning if http_status(error) < 500 else _log.error
    level(
        "refused",
        code=error.code,
        path=request.path[:100],
        **({"detail": error.detail} if error.detail else {}),
    )
    if sent.begun or error.code == "client_gone":
        return  # nobody reads it, or the answer has begun and ended itself
    if error.code == "internal":
        error.fields["request_id"] = request_id
    if (receipt := error.fields.get("receipt")) is not None:
        headers = [*headers, (b"x-consilium-receipt", str(receipt).encode())]
    if error.retry_after_s is not None:
        headers = [*headers, (b"retry-after", str(max(1, round(error.retry_after_s))).encode())]
    with suppress(OSError):
        await asgi.answer(request, http_status(error), dumps(to_openai(error)), headers)


async def _collect(playing: turn.Playing) -> bytes:
    return b"".join([chunk async for chunk in playing])


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise ConsiliumError(
            "method_not_allowed",
            name=request.path[:100],
            method=request.method,
            allowed=" and ".join(methods),
        )


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= LONGEST_ID and given.isascii() and given.isprintable() else ""


def _deadline(request: Request) -> float | None:
    """Return the Unix seconds at which the caller stops waiting, if it says so: header x-consilium-timeout, in seconds."""
    given = request.headers.get("x-consilium-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 86_400:
        raise ConsiliumError(
            "invalid_request",
            field="x-consilium-timeout",
            reason=f"it must be seconds between 0 and 86400 (it is {given[:20]!r})",
        )
    return time.time() + seconds


def span(seconds: int) -> str:
    """Return a time for a sentence: hours, or minutes below one."""
    return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min"


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
