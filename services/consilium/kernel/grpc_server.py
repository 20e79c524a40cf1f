"""A grpc.aio server as every service of the house has it: health, reflection by choice, limits, errors with a reason, drain.

One interceptor wraps each call in the same order: request id, key, message, number of calls, deadline, size, servicer, status. Servicers raise
ConsiliumError and ask `calls.current()` who calls. Methods that take a stream are refused: nothing here looks at their key. Does not know which services
there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc

from consilium.kernel import calls, grpc_reflection, logs, trace_context
from consilium.kernel.clock import Ids, UlidIds
from consilium.kernel.errors import ConsiliumError, unknown
from consilium.kernel.grpc_arrivals import SILENT_IN_ALL, Arrivals, Vouch
from consilium.kernel.health import SERVICE as HEALTH
from consilium.kernel.health import Health
from consilium.kernel.ports import owner
from consilium.kernel.service_config import MAX_BODY_BYTES, MAX_BODY_KEY
from consilium.kernel.unread import Reading

OPEN: Final = (HEALTH, *grpc_reflection.NAMES)
"""Services that need neither key nor deadline: probes and grpcurl send none."""

OVERHANG_BYTES: Final = 4 * 1024 * 1024
"""How far over the limit a message is still read, so that it gets our answer; a larger one is refused by gRPC itself."""

SPARE_CALLS: Final = 64
"""Calls that gRPC lets in above our own limit, so that health checks pass and refusals carry a reason."""

OPEN_STREAMS: Final = SPARE_CALLS // 2
"""Streams of the open services at once: whoever holds them has shown no key, and may not fill the server with them."""

ROUNDED_UP: Final = 1.02
"""gRPC sends a deadline in three digits and rounds it up: a day less a second may arrive as 86,500 s."""

ABORT_S: Final = 1.0
"""Seconds in which the end of a call is told. A caller that reads nothing hears of it when it reads again; nobody waits for that."""

_LONGEST_DETAILS: Final = 2000


class Authenticator(Protocol):
    """Who calls, from the metadata of a call: `authorization` on the public face, the internal token inside."""

    async def __call__(self, metadata: Mapping[str, str], method: str) -> object:
        """Return the principal. Raises ConsiliumError(unauthenticated, forbidden)."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service.

    name     full name
    add      adds its servicer to a server, as the generated function does
    shown    whether reflection tells of it
    methods  names of the methods that reflection shows, None = all
    """

    name: str
    add: Callable[[Any], None]
    shown: bool = True
    methods: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """How a server listens and what it refuses.

    public              a call without a deadline gets the default one; inside the cluster it is refused
    default_deadline_s  also the longest on the public face
    longest_deadline_s  a longer one is refused inside; a job's long thought may take a day
    limit_key           whose limit max_message_bytes is, for the sentence
    settle_s            seconds between NOT_SERVING and refusing new calls, so that endpoints are taken out first; 0 on one machine
    message_s           seconds in which the message of a call must have come, and the greeting of a connection
    unread_s            seconds after which a stream that its caller does not read is ended, on the public face; 0 = never
    idle_s              seconds after which a connection without calls is closed
    """

    host: str = "127.0.0.1"
    port: int = 0
    public: bool = False
    reflection: bool = False
    reuse_port: bool = False
    max_message_bytes: int = MAX_BODY_BYTES
    limit_key: str = MAX_BODY_KEY
    max_calls: int = 1024
    default_deadline_s: float = 600.0
    longest_deadline_s: float = 86_400.0
    settle_s: float = 0.0
    message_s: float = 10.0
    unread_s: float = 0.0
    idle_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over, for metrics. `code` is OK or the name of a gRPC status."""

    method: str
    code: str
    seconds: float


class GrpcServer:
    """One server. `start`, then `stop` with a grace period."""

    def __init__(
        self,
        settings: Settings,
        services: Sequence[Service],
        *,
        authenticate: Authenticator | None = None,
        ids: Ids | None = None,
        observe: Callable[[Ended], None] = lambda _ended: None,
        is_inner: Callable[[Mapping[str, str]], bool] = lambda _metadata: False,
        vouch: Vouch | None = None,
    ) -> None:
        """Take what is served.

        observe   is told of each call that has ended
        vouch     raises ConsiliumError if a caller whose message is late has no good key; None where `authenticate` has found that out
        is_inner  says by its metadata whether a call on the public face comes from inside, where deadlines are required and may be long
        """
        self._settings = settings
        self._services = tuple(services)
        arrivals = Arrivals(settings.message_s, vouch)
        self._wrap = _Wrap(settings, authenticate, ids or UlidIds(), observe, is_inner, arrivals)
        self._server: Any = None
        self.health = Health(service.name for service in services)
        self.port = 0

    async def start(self) -> int:
        """Listen and return the port. Everything serves at once; `health.set_serving` says otherwise.

        Raises ConsiliumError(port_taken).
        """
        set_ = self._settings
        server = grpc.aio.server(
            interceptors=[self._wrap],
            options=_options(set_),
            maximum_concurrent_rpcs=set_.max_calls + SPARE_CALLS + SILENT_IN_ALL,
        )
        for service in self._services:
            service.add(server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        if set_.reflection:
            shown = {service.name: service.methods for service in self._services if service.shown}
            grpc_reflection.add(server, {**shown, HEALTH: None})
        try:
            self.port = server.add_insecure_port(f"{set_.host}:{set_.port}")
        except RuntimeError as err:
            raise ConsiliumError(
                "port_taken", str(err), port=set_.port, name="gRPC", owner=owner(set_.port)
            ) from None
        await server.start()
        self._server = server
        self.health.set_serving(serving=True)
        return self.port

    @property
    def running(self) -> int:
        """How many calls are being served, health and reflection aside, and those whose message has not come."""
        return self._wrap.running

    @property
    def silent(self) -> int:
        """How many calls wait for their message."""
        return self._wrap.arrivals.silent

    @property
    def open_streams(self) -> int:
        """How many streams of health and reflection are open."""
        return self._wrap.open_streams

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, settle, refuse new calls, let running ones finish for `grace_s` seconds, cancel the rest."""
        if self._server is None:
            return
        server, self._server = self._server, None
        self.health.close()
        await asyncio.sleep(self._settings.settle_s)
        await server.stop(grace_s)


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(settings.reuse_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes + OVERHANG_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.server_handshake_timeout_ms", int(settings.message_s * 1000)),
        ("grpc.max_connection_idle_ms", int(settings.idle_s * 1000)),
        # A connection is renewed now and then, so that clients find new replicas; running calls finish first.
        ("grpc.max_connection_age_ms", 600_000),
        ("grpc.max_connection_age_grace_ms", int(settings.longest_deadline_s * 1000)),
    ]


@dataclass(slots=True)
class _Wrap(grpc.aio.ServerInterceptor):
    """Wraps each handler. Requests arrive as bytes, so that size and form are judged here and not by gRPC."""

    settings: Settings
    authenticate: Authenticator | None
    ids: Ids
    observe: Callable[[Ended], None]
    is_inner: Callable[[Mapping[str, str]], bool]
    arrivals: Arrivals
    running: int = field(default=0, init=False)
    open_streams: int = field(default=0, init=False)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Return a handler that takes a stream even where the method takes one message: such a handler runs before the message is here."""
        handler = await continuation(details)
        method: str = details.method
        if handler is None:
            return None
        if method.split("/")[1] in OPEN:
            return self._bounded(handler) if handler.response_streaming else self._open(handler)
        if handler.request_streaming:
            return _refusing(handler)
        parse = handler.request_deserializer or bytes

        async def unary(requests: Any, context: Any) -> Any:
            async with self._served(method, requests, context) as raw:
                return await handler.unary_unary(self._parsed(raw, parse), context)

        async def stream(requests: Any, context: Any) -> None:
            # Written, not yielded: a cancelled call then ends inside this block, and the servicer's generator is closed before the call is over.
            async with (
                self._served(method, requests, context) as raw,
                aclosing(handler.unary_stream(self._parsed(raw, parse), context)) as answers,
            ):
                await self._send(answers, context)

        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                stream, response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            unary, response_serializer=handler.response_serializer
        )

    async def _send(self, answers: Any, context: Any) -> None:
        """Send the answers of a stream. Raises ConsiliumError(deadline), in the servicer's generator first, if the caller has stopped reading."""
        limit_s = 0.0 if self.is_inner(_texts(context)) else self.settings.unread_s
        if not limit_s:
            async for answer in answers:
                await context.write(answer)
            return
        with Reading(limit_s) as reading:
            async for answer in answers:
                try:
                    await reading.write(context.write(answer))
                except ConsiliumError as error:
                    with suppress(StopAsyncIteration):
                        await answers.athrow(error)
                    raise

    def _open(self, handler: Any) -> Any:
        """Return a handler of an open service that takes one message and gives one."""

        async def unary(requests: Any, context: Any) -> Any:
            try:
                request = await self.arrivals.first(requests, {}, is_open=True)
            except ConsiliumError as error:
                await _abort(context, error)
                return None
            return await handler.unary_unary(request, context)

        return grpc.stream_unary_rpc_method_handler(
            unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _bounded(self, handler: Any) -> Any:
        """Return a streaming handler of an open service, of which only so many run at once."""

        async def stream(requests: Any, context: Any) -> None:
            if self.open_streams >= OPEN_STREAMS:
                await _abort(
                    context,
                    ConsiliumError(
                        "queue_full",
                        name="Health and reflection",
                        running=OPEN_STREAMS,
                        limit=OPEN_STREAMS,
                        retry_after_s=1.0,
                    ),
                )
                return  # also where the caller does not read even that
            self.open_streams += 1
            try:
                if handler.request_streaming:
                    inner = handler.stream_stream(self.arrivals.each(requests), context)
                else:
                    request = await self.arrivals.first(requests, {}, is_open=True)
                    inner = handler.unary_stream(request, context)
                async with aclosing(inner) as answers:
                    async for answer in answers:
                        await context.write(answer)
            except ConsiliumError as error:
                await _abort(context, error)
            finally:
                self.open_streams -= 1

        return grpc.stream_stream_rpc_method_handler(
            stream,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _served(self, method: str, requests: Any, context: Any) -> AsyncIterator[bytes]:
        """Yield the message of a call that is let in, and tell its end."""
        began = time.monotonic()
        metadata = _texts(context)
        request_id = calls.request_id_from(metadata.get(calls.REQUEST_ID_KEY)) or self.ids.new()
        logs.set_request_id(request_id)
        trace_context.enter(trace_context.of(context.invocation_metadata() or ()))
        code = "OK"
        is_counted = False
        try:
            principal = (
                await self.authenticate(metadata, method) if self.authenticate is not None else None
            )
            public = self.settings.public and not self.is_inner(metadata)
            async with self._limit(context, public=public) as deadline:
                raw = await self.arrivals.first(requests, metadata)
                self.running += 1
                is_counted = True
                self._admit()
                calls.enter(calls.Call(method, request_id, deadline, principal))
                yield raw
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = _status_name(context.code())
            raise
        except Exception as error:
            told = error if isinstance(error, ConsiliumError) else unknown(request_id, error)
            code = told.row.grpc
            if told is not error:
                logs.get("grpc").exception("rpc_broke", method=method)
            elif told.detail:
                logs.get("grpc").info(
                    "rpc_refused", method=method, code=told.code, detail=told.detail
                )
            await _abort(context, told, (calls.REQUEST_ID_KEY, request_id))
        finally:
            self.running -= is_counted
            self.observe(Ended(method, code, time.monotonic() - began))

    def _admit(self) -> None:
        if self.running > self.settings.max_calls:
            raise ConsiliumError(
                "queue_full",
                name="This server",
                running=self.running - 1,
                limit=self.settings.max_calls,
                retry_after_s=1.0,
            )

    @asynccontextmanager
    async def _limit(self, context: Any, *, public: bool) -> AsyncIterator[float]:
        """Yield the deadline in Unix seconds and hold it."""
        set_ = self.settings
        given = context.time_remaining()
        if not public:
            if given is None:
                raise ConsiliumError(
                    "invalid_request",
                    field="deadline",
                    reason="inside the cluster every call needs a deadline",
                )
            if given > set_.longest_deadline_s * ROUNDED_UP:
                raise ConsiliumError(
                    "invalid_request",
                    field="deadline",
                    reason=f"{given:.0f} s is longer than the longest of {set_.longest_deadline_s:.0f} s",
                )
        if given is not None and given <= set_.default_deadline_s:
            yield time.time() + given
            return
        limit = given if given is not None and not public else set_.default_deadline_s
        try:
            async with asyncio.timeout(limit) as timer:
                yield time.time() + limit
        except TimeoutError:
            if not timer.expired():
                raise
            raise ConsiliumError("deadline", name="This server", seconds=round(limit, 1)) from None

    def _parsed(self, raw: bytes, parse: Callable[[bytes], Any]) -> Any:
        if len(raw) > self.settings.max_message_bytes:
            raise ConsiliumError(
                "body_too_large",
                size=len(raw),
                key=self.settings.limit_key,
                limit=self.settings.max_message_bytes,
            )
        try:
            return parse(raw)
        except Exception as error:
            raise ConsiliumError(
                "invalid_request",
                f"{type(error).__name__}: {error}",
                field="message",
                reason="it is not of the type that this method takes",
            ) from None


async def _abort(context: Any, error: ConsiliumError, *more: tuple[str, str]) -> None:
    """End a call with an error: status, sentence, and what a channel needs to raise the same error again."""
    with suppress(TimeoutError, grpc.aio.InternalError):  # it does not read, or has gone
        async with asyncio.timeout(ABORT_S):
            await context.abort(
                calls.status_of(error),
                error.public()[:_LONGEST_DETAILS],
                (*calls.trailing(error), *more),
            )


def _texts(context: Any) -> dict[str, str]:
    """Return the metadata of a call that is text."""
    found = context.invocation_metadata() or ()
    return {key: value for key, value in found if isinstance(value, str)}


def _status_name(code: Any) -> str:
    """Return the name of a status that a servicer ended its call with, which gRPC gives back as a number."""
    for status in grpc.StatusCode:
        if code is status or code == status.value[0]:
            return str(status.name)
    return "UNKNOWN"


def _refusing(handler: Any) -> Any:
    """Return a handler that refuses, in place of one that takes a stream of requests."""

    async def refuse(_requests: Any, context: Any) -> None:
        await _abort(
            context,
            ConsiliumError(
                "not_supported", reason="methods that take a stream are not served here"
            ),
        )

    return (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )(refuse)
