"""A remote executor: any server that speaks the OpenAI API (a rented box, a Mac, a paid service).

Passes bodies through, adds the model's name and the key, and reads usage from what comes back. Nothing is tried again once a byte has come; a
connection that cannot be made is tried once more. Does not know vLLM or Ray.

    no connection, 5xx, a refused key, an unknown model   upstream_down, before the head
    400, 413, 422                                         the server's own error object
    429                                                   the server's error object, with its Retry-After
    no byte within the time                               deadline
    a stream that is cut before its first event           upstream_down, after the head
    a stream that is cut later                            an SSE error event and [DONE]
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import httpx

from consilium.engine import wire
from consilium.engine.ports import (
    Call,
    ExecutorInfo,
    Head,
    Json,
    Route,
    State,
    Tail,
    Timings,
    Usage,
)
from consilium.kernel import logs
from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.json_bytes import dumps
from consilium.kernel.masking import shown_address
from consilium.kernel.openai_errors import seconds, shaped
from consilium.kernel.sse import DONE, Splitter, data_of

_log = logs.get("engine")

CHECK_TIMEOUT_S: Final = 10.0
DRAIN_S: Final = 0.05
"""How long the end of the HTTP message is waited for once the answer has ended; then the connection is closed and not used again."""
MAX_BODY: Final = 64 * 1024 * 1024
EVENT_LIMIT: Final = 1 << 20
"""Bytes of an event that is waited for; a longer one passes in pieces."""
PATHS: Final[Mapping[Route, str]] = {
    "chat": "chat/completions", "completions": "completions", "responses": "responses", "embeddings": "embeddings", "models": "models",
    "tokenize": "../tokenize", "detokenize": "../detokenize", "tokenizer_info": "../tokenizer_info",
}  # fmt: skip
_ASKED_BY_GET: Final[frozenset[Route]] = frozenset({"models", "tokenizer_info"})
_CALLERS: Final = frozenset({400, 413, 422})
_RESPONSE_ENDS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "error"}
)
_END_WORDS: Final = tuple(f'"{end}"'.encode() for end in _RESPONSE_ENDS)
_FINISH: Final = re.compile(rb'"finish_reason":\s*"(\w+)"')


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Where the server is, and what we may ask of it.

    url      base URL with /v1
    model    its name for the model
    key_env  environment variable that holds its key, or None
    context  tokens, or None to take what /models says
    """

    name: str
    url: str
    model: str
    key_env: str | None = None
    timeout_s: float = 600.0
    connect_timeout_s: float = 5.0
    max_in_flight: int = 64
    context: int | None = None
    fallback: str | None = None


class RemoteEngine:
    """Obeys the engine port."""

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        self._client: httpx.AsyncClient | None = None
        self._in_flight = 0
        self._info = ExecutorInfo(
            name=settings.name,
            kind="remote",
            model=settings.model,
            context=settings.context,
            places=settings.max_in_flight,
            fallback=settings.fallback,
        )

    async def start(self) -> None:
        """Open the connection pool. Raises ConsiliumError(config_invalid) if the key's variable is not set."""
        self._open()

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    def info(self) -> ExecutorInfo:
        """Say what is known of the server."""
        return self._info

    async def check(self) -> None:
        """Ask the server for its models; a server without that list is taken as up. Raises ConsiliumError(upstream_down)."""
        try:
            response = await self._open().get("models", timeout=CHECK_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise self._down(f"{type(error).__name__}: {error}") from error
        if response.status_code in {401, 403} or response.status_code >= 500:
            raise self._down(f"/models answered {response.status_code}")
        context = self._settings.context or _context(response, self._settings.model)
        self._info = replace(self._info, state=State.READY, context=context)

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the frames of one answer. Closing the generator closes the connection, which is what stops the server."""
        settings = self._settings
        if self._in_flight >= settings.max_in_flight:
            raise ConsiliumError(
                "queue_full",
                name=settings.name,
                running=self._in_flight,
                limit=settings.max_in_flight,
                retry_after_s=1.0,
            )
        self._in_flight += 1
        try:
            async with aclosing(
                self._exchange(call)
            ) as frames:  # closed with us, and not whenever the loop gets to it
                async for frame in frames:
                    yield frame
        finally:
            self._in_flight -= 1

    async def _exchange(self, call: Call) -> AsyncGenerator[bytes, None]:
        began = time.monotonic()
        method = "GET" if call.route in _ASKED_BY_GET else "POST"
        try:
            request = self._open().build_request(
                method,
                PATHS[call.route],
                headers=dict(call.trace),
                json=None if method == "GET" else _body(call, self._settings.model),
            )
        except ValueError:  # 1e999 was read as infinity, which JSON cannot say
            raise ConsiliumError(
                "invalid_request", field="body", reason="it holds a number that JSON cannot write"
            ) from None
        try:
            response = await self._open().send(request, stream=True)
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ReadTimeout):
                raise ConsiliumError(
                    "deadline",
                    name=self._settings.name,
                    seconds=self._settings.timeout_s,
                    retry_after_s=1.0,
                ) from error
            raise self._down(f"{type(error).__name__}: {error}") from error
        except httpx.HTTPError as error:
            raise self._down(f"{type(error).__name__}: {error}") from error
        try:
            self._info = replace(self._info, state=State.READY)
            if response.status_code == httpx.codes.OK and response.headers.get(
                "content-type", ""
            ).startswith("text/event-stream"):
                async with aclosing(self._streamed(call, response, began)) as frames:
                    async for frame in frames:
                        yield frame
            else:
                yield await self._whole(call, response, began)
        finally:
            await response.aclose()

    async def _whole(self, call: Call, response: httpx.Response, began: float) -> bytes:
        status = response.status_code
        try:
            body = await _read(response)
        except httpx.HTTPError as error:
            raise self._down(f"the answer was cut: {error}") from error
        parsed = _json(body)
        if status == httpx.codes.OK:
            if parsed is None:
                raise self._down("the answer is no JSON")
            tail = Tail(_usage(parsed) or Usage(), _first_reason(parsed), _timings(began, None))
            return wire.document(self._head(status, stream=False), body, tail)
        retry_after = seconds(response.headers.get("retry-after"))
        if status in _CALLERS or status == httpx.codes.TOO_MANY_REQUESTS:
            said = parsed if parsed is not None and "error" in parsed else None
            sentence = f"The server of {self._settings.name} refused it."
            refusal = shaped(said or {"error": sentence}, status)
            body = body if refusal is said else dumps(refusal)
            return wire.document(
                self._head(status, stream=False, retry_after=retry_after), body, Tail()
            )
        if status == httpx.codes.NOT_FOUND and call.route in {
            "tokenize",
            "detokenize",
            "tokenizer_info",
            "embeddings",
            "responses",
        }:
            raise ConsiliumError(
                "not_supported", reason=f"The server of {self._settings.name} has no {call.route}."
            )
        raise self._down(f"{PATHS[call.route]} answered {status}: {body[:200]!r}")

    async def _streamed(
        self, call: Call, response: httpx.Response, began: float
    ) -> AsyncGenerator[bytes, None]:
        yield wire.head_frame(self._head(200, stream=True))
        held, has_begun = b"", False
        splitter, seen = Splitter(EVENT_LIMIT), _Seen(strip_usage=not _asks_usage(call.body))
        chunks = response.aiter_bytes()
        try:
            async for data in chunks:
                if wire.TAIL in data:
                    raise httpx.RemoteProtocolError("a zero byte, which no event holds")
                held += b"".join(
                    _with_error_shaped(event) for event in splitter.feed(data) if seen.keeps(event)
                )
                if seen.ended:  # the end travels with the tail, so that the receipt can stand in it
                    await _drain(chunks)
                    break
                if held:
                    yield held
                    held, has_begun = b"", True
        except httpx.HTTPError as error:
            if not seen.ended:
                failed = self._down(f"the stream was cut: {type(error).__name__}: {error}")
                if not has_begun:
                    raise failed from error
                yield wire.tail_frame(seen.tail(began), wire.broken_stream(failed))
                return
        rest = held + splitter.rest()
        if not seen.ended:
            failed = self._down("the stream ended before the answer did")
            if not has_begun:
                raise failed
            rest = wire.broken_stream(failed)
        yield wire.tail_frame(seen.tail(began), rest)

    def _head(self, status: int, *, stream: bool, retry_after: float | None = None) -> Head:
        return Head(
            status,
            stream,
            wire.SSE if stream else wire.JSON,
            retry_after,
            replica=shown_address(self._settings.url),
            executor=self._settings.name,
        )

    def _down(self, detail: str) -> ConsiliumError:
        if self._info.state is not State.DOWN:
            _log.warning("remote_down", executor=self._settings.name, detail=detail)
        self._info = replace(self._info, state=State.DOWN)
        return ConsiliumError("upstream_down", detail, name=self._settings.name, retry_after_s=5.0)

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            settings = self._settings
            headers = {"accept-encoding": "identity"}
            if settings.key_env is not None:
                key = environment_value(settings.key_env)
                if key is None:
                    raise ConsiliumError(
                        "config_invalid",
                        key=f"executors.{settings.name}.key_env",
                        reason=f"the environment has no {settings.key_env}",
                    )
                headers["authorization"] = f"Bearer {key}"
            self._client = httpx.AsyncClient(
                base_url=settings.url.rstrip("/") + "/",
                headers=headers,
                timeout=httpx.Timeout(settings.timeout_s, connect=settings.connect_timeout_s),
                limits=httpx.Limits(
                    max_connections=settings.max_in_flight + 4,
                    max_keepalive_connections=settings.max_in_flight,
                ),
                transport=httpx.AsyncHTTPTransport(retries=1),
            )
        return self._client


class _Seen:
    """What the events of one stream have said."""

    def __init__(self, *, strip_usage: bool) -> None:
        self._strip = strip_usage
        self._usage = Usage()
        self._reason: str | None = None
        self._first: float | None = None
        self.ended = False

    def keeps(self, event: bytes) -> bool:
        """Note what an event says. False for a comment that keeps a connection alive, which is no byte of the answer, and for the usage event that only we asked for."""
        if event.startswith(b":") and not data_of(event):
            return False
        self._first = self._first or time.monotonic()
        if (found := _FINISH.search(event)) is not None:
            self._reason = found[1].decode()
        if DONE in event and data_of(event).strip() == DONE:
            self.ended = True
        if b'"usage"' not in event and not any(end in event for end in _END_WORDS):
            return True
        parsed = _json(data_of(event)) or {}
        self.ended = self.ended or parsed.get("type") in _RESPONSE_ENDS
        inner = parsed.get("response")
        usage = _usage(inner if isinstance(inner, dict) else parsed)
        if usage is None:
            return True
        self._usage = usage
        return not (self._strip and parsed.get("choices") == [])

    def tail(self, began: float) -> Tail:
        return Tail(self._usage, self._reason, _timings(began, self._first))


def _with_error_shaped(event: bytes) -> bytes:
    """Return an event as it came; an error in it, in the shape that errors before the first byte have."""
    if b'"error"' not in event:
        return event
    parsed = _json(data_of(event))
    if parsed is None or not isinstance(parsed.get("error"), dict | str):
        return event
    refusal = shaped(parsed, httpx.codes.INTERNAL_SERVER_ERROR)
    return event if refusal is parsed else b"data: " + dumps(refusal) + b"\n\n"


def _body(call: Call, model: str) -> Json:
    body = {**call.body, "model": model}
    if call.route in {"chat", "completions"} and body.get("stream") is True:
        options = body.get("stream_options")
        body["stream_options"] = {
            **(options if isinstance(options, dict) else {}),
            "include_usage": True,
        }
    return body


def _asks_usage(body: Json) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


async def _read(response: httpx.Response) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > MAX_BODY:
            raise httpx.ReadError(f"the answer is larger than {MAX_BODY} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of the HTTP message and keep nothing of it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass


def _json(body: bytes) -> dict[str, Any] | None:
    """Return a JSON object, or None for anything else. UTF-16 is no JSON here: its zero bytes would end a frame."""
    if wire.TAIL in body:
        return None
    try:
        parsed = json.loads(body)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def _usage(parsed: Mapping[str, Any]) -> Usage | None:
    usage = parsed.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return Usage(
        prompt_tokens=_count(usage.get("prompt_tokens") or usage.get("input_tokens")),
        completion_tokens=_count(usage.get("completion_tokens") or usage.get("output_tokens")),
        cached_tokens=_count(details.get("cached_tokens") if isinstance(details, dict) else 0),
    )


def _count(value: object) -> int:
    """Return a number of tokens; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _first_reason(parsed: Mapping[str, Any]) -> str | None:
    choices = parsed.get("choices")
    reason = (
        choices[0].get("finish_reason")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict)
        else None
    )
    return reason if isinstance(reason, str) else None


def _timings(began: float, first: float | None) -> Timings:
    now = time.monotonic()
    return Timings(
        first_token_ms=None if first is None else round((first - began) * 1000, 3),
        total_ms=round((now - began) * 1000, 3),
    )


def _context(response: httpx.Response, model: str) -> int | None:
    listed = (_json(response.content) or {}).get("data")
    for row in listed if isinstance(listed, list) else ():
        if (
            isinstance(row, dict)
            and row.get("id") == model
            and isinstance(row.get("max_model_len"), int)
        ):
            return int(row["max_model_len"])
    return None
