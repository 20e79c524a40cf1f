"""The greeter over gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from consilium.kernel import calls, trace_context
from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.grpc_server import Service
from consilium.kernel.principals import Principal
from consilium.kernel.tables import Table
from tests.greeter import greeter_pb2 as pb
from tests.greeter import greeter_pb2_grpc as rpc

NAME = "tests.greeter.GreeterService"
MOST_NUMBERS = 100_000
LONGEST_MS = 60_000


class Greeter(rpc.GreeterServiceServicer):
    """Greets. `itself` is a channel to the greeter of the cluster, for Relay."""

    def __init__(self, word: str, greetings: Table, itself: Channel | None = None) -> None:
        self._word = word
        self._greetings = greetings
        self._itself = itself
        self._greeted = 0
        self._ordered = 0

    async def Greet(self, request: pb.GreetRequest, context: Any) -> pb.GreetResponse:
        self._greeted += 1
        if request.away:
            raise ConsiliumError("upstream_down", name="The greeter", retry_after_s=1.0)
        call = calls.current()
        assert isinstance(call.principal, Principal)
        name = request.name or call.principal.name
        self._greetings.put(name[:100], {"by": call.principal.key_id, "calls": self._greeted})
        return pb.GreetResponse(
            text=f"{self._word}, {name}",
            calls=self._greeted,
            key_id=call.principal.key_id,
            tenant=call.principal.tenant,
            scopes=sorted(call.principal.scopes),
            request_id=call.request_id,
            rest_s=call.deadline - time.time(),
            **trace_context.headers(),
        )

    async def Order(self, request: pb.OrderRequest, context: Any) -> pb.OrderResponse:
        self._ordered += 1
        if request.away:
            raise ConsiliumError("upstream_down", name="The greeter", retry_after_s=1.0)
        return pb.OrderResponse(calls=self._ordered)

    async def Count(
        self, request: pb.CountRequest, context: Any
    ) -> AsyncIterator[pb.CountResponse]:
        _check("numbers", request.numbers, MOST_NUMBERS)
        _check("pause_ms", request.pause_ms, LONGEST_MS)
        for number in range(request.numbers):
            yield pb.CountResponse(number=number)
            await asyncio.sleep(request.pause_ms / 1000)

    async def Fail(self, request: pb.FailRequest, context: Any) -> pb.FailResponse:
        if request.code == "unexpected":
            raise RuntimeError("password=hunter2")
        if request.code not in BY_CODE:
            raise ConsiliumError("invalid_request", field="code", reason="there is no such code")
        raise ConsiliumError(request.code, "private", reason="a test wants it so")

    async def Sleep(self, request: pb.SleepRequest, context: Any) -> pb.SleepResponse:
        _check("milliseconds", request.milliseconds, LONGEST_MS)
        await asyncio.sleep(request.milliseconds / 1000)
        return pb.SleepResponse()

    async def Relay(self, request: pb.RelayRequest, context: Any) -> pb.RelayResponse:
        if self._itself is None:
            raise ConsiliumError("upstream_down", name="The greeter", retry_after_s=1.0)
        greet = rpc.GreeterServiceStub(self._itself.raw).Greet
        return pb.RelayResponse(greeting=await self._itself.ask(greet, request.greet))


def service(greeter: Greeter) -> Service:
    """Return the service as the kernel's server takes it."""
    return Service(NAME, lambda server: rpc.add_GreeterServiceServicer_to_server(greeter, server))


def _check(field: str, value: int, most: int) -> None:
    if not 0 <= value <= most:
        raise ConsiliumError("invalid_request", field=field, reason=f"it must be from 0 to {most}")
