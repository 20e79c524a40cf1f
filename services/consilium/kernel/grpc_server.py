"""A grpc.aio server as every service of the house has it: health, reflection by choice, limits, errors with a reason, drain.

One interceptor wraps each call in the same order: request id, size, number of calls, deadline, key, servicer, status. Servicers raise
ConsiliumError and ask `calls.current()` who calls. Methods that take a stream are refused: nothing here looks at their key. Does not know which services
there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2_grpc

from consilium.kernel import calls, grpc_reflection, logs
from consilium.kernel.clock import Ids, UlidIds
from consilium.kernel.errors import ConsiliumError, unknown
from consilium.kernel.health import SERVICE as HEALTH
from consilium.kernel.health import Health
from consilium.kernel.ports import owner

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
    settle_s            seconds between NOT_SERVING and refusing new calls, so that endpoints are taken out first; 0 on one machine
    """

    host: str = "127.0.0.1"
    port: int = 0
    public: bool = False
    reflection: bool = False
    reuse_port: bool = False
    max_message_bytes: int = 8 * 1024 * 1024
    max_calls: int = 1024
    default_deadline_s: float = 600.0
    longest_deadline_s: float = 86_400.0
    settle_s: float = 0.0


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
    ) -> None:
        """Take what is served.

        observe   is told of each call that has ended
        is_inner  says by its metadata whether a call on the public face comes from inside, where deadlines are required and may be long
        """
        self._settings = settings
        self._services = tuple(services)
        self._wrap = _Wrap(settings, authenticate, ids or UlidIds(), observe, is_inner)
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
            maximum_concurrent_rpcs=set_.max_calls + SPARE_CALLS,
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
        """How many calls are being served, health and reflection aside."""
        return self._wrap.running

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
    running: int = field(default=0, init=False)
    open_streams: int = field(default=0, init=False)

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        handler = await continuation(details)
        method: str = details.method
        if handler is None:
            return None
        if method.split("/")[1] in OPEN:
            return self._bounded(handler) if handler.response_streaming else handler
        if handler.request_streaming:
            return _refusing(handler)
        parse = handler.request_deserializer or bytes

        async def unary(raw: bytes, context: Any) -> Any:
            async with self._served(method, context):
                return await handler.unary_unary(self._parsed(raw, parse), context)

        async def stream(raw: bytes, context: Any) -> None:
            # Written, not yielded: a cancelled call then ends inside this block, and the servicer's generator is closed before the call is over.
            async with (
                self._served(method, context),
                aclosing(handler.unary_stream(self._parsed(raw, parse), context)) as answers,
            ):
                async for answer in answers:
                    await context.write(answer)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                stream, response_serializer=handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            unary, response_serializer=handler.response_serializer
        )

    def _bounded(self, handler: Any) -> Any:
        """Return a streaming handler of an open service, of which only so many run at once."""
        inner = handler.stream_stream or handler.unary_stream

        async def stream(request: Any, context: Any) -> None:
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
            self.open_streams += 1
            try:
                async with aclosing(inner(request, context)) as answers:
                    async for answer in answers:
                        await context.write(answer)
            finally:
                self.open_streams -= 1

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_stream_rpc_method_handler
        )
        return make(
            stream,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _served(self, method: str, context: Any) -> AsyncIterator[None]:
        began = time.monotonic()
        metadata = {
            key: value
            for key, value in context.invocation_metadata() or ()
            if isinstance(value, str)
        }
        request_id = calls.request_id_from(metadata.get(calls.REQUEST_ID_KEY)) or self.ids.new()
        logs.set_request_id(request_id)
        code = "OK"
        self.running += 1
        try:
            await self._admit()
            public = self.settings.public and not self.is_inner(metadata)
            async with self._limit(context, public=public) as deadline:
                principal = (
                    await self.authenticate(metadata, method)
                    if self.authenticate is not None
                    else None
                )
                calls.enter(calls.Call(method, request_id, deadline, principal))
                yield
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
            self.running -= 1
            self.observe(Ended(method, code, time.monotonic() - began))

    async def _admit(self) -> None:
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
                "body_too_large", size=len(raw), limit=self.settings.max_message_bytes
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
    await context.abort(
        calls.status_of(error), error.public()[:_LONGEST_DETAILS], (*calls.trailing(error), *more)
    )


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
