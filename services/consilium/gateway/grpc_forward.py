"""Rooms' public gRPC methods, handed on as bytes: nothing here knows what a message says.

    caller -> key and scope of the method -> room (internal token, signed principal, deadline, request id) -> bytes, status and trailing metadata back

Only methods in a room's row are handed on. Cancelling the call cancels the room's. Knows methods and metadata. Does not know messages.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc

from consilium.gateway.authority import Authority
from consilium.gateway.forwarding import INNER, Forwarding, Reached
from consilium.kernel import calls, logs, trace_context
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import MARGIN_S
from consilium.kernel.grpc_server import GrpcServer, Service
from consilium.kernel.rooms import Room

Pairs: TypeAlias = tuple[tuple[str, str | bytes], ...]

PASSED: Final = frozenset({"idempotency-key", "x-consilium-conversation"})
"""Metadata of a caller that a room gets to see."""
LOOK_S: Final = 2.0
"""Seconds between two looks at how a room is, and the longest wait for its answer."""
_OURS: Final = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
"""Statuses that say nothing a caller may read unless our own metadata comes with them."""

_log = logs.get("gateway")


class GrpcForward:
    """Hands calls on to rooms. `services` goes into the server; `watch` keeps the server's health right."""

    def __init__(self, forwarding: Forwarding, authority: Authority) -> None:
        """Take the wiring. Raises ConsiliumError(config_invalid) if a row names a method that its room's proto does not have."""
        self._forwarding = forwarding
        self._rooms = [
            _RoomCalls(reached, forwarding, authority)
            for reached in forwarding.rooms
            if reached.room.methods
        ]
        self.services: tuple[Service, ...] = tuple(
            service for room in self._rooms for service in room.services()
        )

    async def watch(self, server: GrpcServer) -> None:
        """Tell by the server's health how each room is, until cancelled."""
        await asyncio.gather(*(self._watch(room, server) for room in self._rooms))

    async def aclose(self) -> None:
        """Close the connections."""
        for room in self._rooms:
            await room.channel.close()

    async def _watch(self, room: _RoomCalls, server: GrpcServer) -> None:
        was: bool | None = None
        while True:
            is_well = await room.is_well()
            if is_well is not was:
                if was is not None:
                    _log.info("room_changed", room=room.reached.room.name, is_well=is_well)
                was = is_well
                for service in room.services():
                    server.health.set_serving(serving=is_well, service=service.name)
            await self._forwarding.clock.sleep(LOOK_S)


@dataclass(frozen=True, slots=True)
class _Method:
    """A method that is handed on."""

    path: str
    scope: str
    streams: bool


class _RoomCalls:
    """One room's methods, over one channel."""

    def __init__(self, reached: Reached, forwarding: Forwarding, authority: Authority) -> None:
        self.reached, self._forwarding, self._authority = reached, forwarding, authority
        self._methods = _methods(reached.room)
        self.channel: Any = grpc.aio.insecure_channel(
            reached.grpc or "127.0.0.1:0", options=_options(reached.room)
        )

    def services(self) -> list[Service]:
        """Return the services as the kernel's server takes them."""
        return [
            Service(name, _Handlers(name, self._handlers(methods)).add_to, methods=_names(methods))
            for name, methods in self._methods.items()
        ]

    async def is_well(self) -> bool:
        """Ask the room whether it serves."""
        stub = health_pb2_grpc.HealthStub(self.channel)
        with suppress(grpc.aio.AioRpcError):
            told = await stub.Check(health_pb2.HealthCheckRequest(), timeout=LOOK_S)
            return bool(told.status == health_pb2.HealthCheckResponse.SERVING)
        return False

    def _handlers(self, methods: Iterable[_Method]) -> dict[str, Any]:
        return {
            method.path: grpc.unary_stream_rpc_method_handler(self._stream(method))
            if method.streams
            else grpc.unary_unary_rpc_method_handler(self._unary(method))
            for method in methods
        }

    def _unary(self, method: _Method) -> Any:
        ask = self.channel.unary_unary(method.path)

        async def unary(raw: bytes, context: Any) -> bytes:
            call = ask(raw, metadata=await self._enter(context, method), timeout=self._left_s())
            try:
                answer: bytes = await call
                self._forwarding.let_in(self.reached)
                await _begin(context, await call.initial_metadata())
                context.set_trailing_metadata(_shown(await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                await self._end(error, context)
            finally:
                call.cancel()
            return answer

        return unary

    def _stream(self, method: _Method) -> Any:
        ask = self.channel.unary_stream(method.path)

        async def stream(raw: bytes, context: Any) -> AsyncIterator[bytes]:
            call = ask(raw, metadata=await self._enter(context, method), timeout=self._left_s())
            try:
                await _begin(context, await call.initial_metadata())
                async for answer in call:
                    yield answer
                self._forwarding.let_in(self.reached)
                context.set_trailing_metadata(_shown(await call.trailing_metadata()))
            except grpc.aio.AioRpcError as error:
                await self._end(error, context)
            finally:
                call.cancel()

        return stream

    async def _enter(self, context: Any, method: _Method) -> Pairs:
        """Let a caller in and return the metadata that the room gets. Raises ConsiliumError."""
        given = dict(context.invocation_metadata() or ())
        header = given.get(calls.AUTHORIZATION_KEY)
        admitted = await self._authority.authenticate(header, 0, method.scope)
        told = {name: value for name, value in given.items() if name in PASSED}
        told |= self._forwarding.identity(admitted.principal)
        told |= {calls.REQUEST_ID_KEY: calls.current().request_id, **trace_context.headers()}
        return tuple(told.items())

    def _left_s(self) -> float:
        """Return the seconds that the room gets: what is left to the caller, less what telling it takes."""
        left_s = calls.current().deadline - time.time() - MARGIN_S
        if left_s <= 0:
            raise self._late()
        return left_s

    async def _end(self, error: grpc.aio.AioRpcError, context: Any) -> NoReturn:
        """End our call as the room's ended: with its own status where the room chose one, with a sentence where it could not."""
        status, said = error.code(), error.details() or ""
        trailing = _shown(error.trailing_metadata() or ())
        if status is grpc.StatusCode.UNAUTHENTICATED:
            raise self._forwarding.refused(self.reached, said) from None
        if not any(name == calls.ERROR_KEY for name, _ in trailing):
            if status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise self.reached.down(said) from None
            if status is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._late() from None
            if status is grpc.StatusCode.UNIMPLEMENTED:
                raise ConsiliumError(
                    "not_supported",
                    said,
                    reason=f"The service {self.reached.room.name} that runs here does not have this method.",
                ) from None
            if status in _OURS:
                raise ConsiliumError(
                    "internal",
                    f"{self.reached.room.name}: {said}",
                    request_id=calls.current().request_id,
                ) from None
        await context.abort(status, said, trailing)
        raise error  # not reached: abort raises

    def _late(self) -> ConsiliumError:
        return ConsiliumError("deadline", name=f"The service {self.reached.room.name}")


class _Handlers(grpc.GenericRpcHandler):
    """The handlers of one service; a method that is not in the room's row is refused with a sentence."""

    def __init__(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._beginning, self._handlers = f"/{service}/", handlers

    def add_to(self, server: Any) -> None:
        """Add them to a grpc.aio server."""
        server.add_generic_rpc_handlers((self,))

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method, or None if it is another service's."""
        method: str = handler_call_details.method
        if not method.startswith(self._beginning):
            return None
        return self._handlers.get(method) or grpc.unary_unary_rpc_method_handler(_not_open)


async def _not_open(_raw: bytes, _context: Any) -> bytes:
    method = calls.current().method
    raise ConsiliumError(
        "not_supported", reason=f"{method[:100]} is not a method that the gateway hands on."
    )


async def _begin(context: Any, metadata: Any) -> None:
    if shown := _shown(metadata):
        await context.send_initial_metadata(shown)


def _shown(metadata: Any) -> Pairs:
    """Return what a caller may see of a room's metadata."""
    return tuple(
        (name, value)
        for name, value in metadata or ()
        if name not in INNER and not name.startswith("grpc-")
    )


def _names(methods: Iterable[_Method]) -> frozenset[str]:
    return frozenset(method.path.rpartition("/")[2] for method in methods)


def _methods(room: Room) -> dict[str, list[_Method]]:
    """Return the methods of a room's row, by service. Raises ConsiliumError(config_invalid)."""
    found: dict[str, list[_Method]] = defaultdict(list)
    for path, scope in room.methods.items():
        _, service, method = path.split("/")
        try:
            importlib.import_module(room.descriptor)
            described = descriptor_pool.Default().FindServiceByName(service)
            known = described.methods_by_name[method]
        except (ImportError, KeyError, ValueError) as error:
            raise _not_a_row(
                room, f"{path} is not found in {room.descriptor!r} ({error})"
            ) from None
        if known.client_streaming:
            raise _not_a_row(room, f"{path} takes a stream of requests, which is not handed on")
        found[service].append(_Method(path, scope, known.server_streaming))
    return dict(found)


def _not_a_row(room: Room, reason: str) -> ConsiliumError:
    return ConsiliumError("config_invalid", key=f"the row of the room {room.name}", reason=reason)


def _options(room: Room) -> list[tuple[str, Any]]:
    """Return the options of a channel. Only methods that may be repeated without harm are tried again."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if room.idempotent:
        names = [path.split("/") for path in sorted(room.idempotent)]
        config["methodConfig"] = [
            {
                "name": [{"service": service, "method": method} for _, service, method in names],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_receive_message_length", -1),  # of answers: they are ours, and passed on
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
