"""A real grpc.aio server on port 0 with a servicer that does what the prompt says, and real clients."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from tests.waiting import until_true

from consilium.kernel import calls
from consilium.kernel.clock import CountedIds
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.grpc_server import Ended, GrpcServer, Service, Settings
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

NAME = "consilium.v1.GenerationService"


@dataclass
class Script(rpc.GenerationServiceServicer):
    """Answers as the prompt says: `count N MS [X]` streams N texts and then raises X, anything else is looked up in `raises`."""

    raises: dict[str, Exception] = field(default_factory=dict)
    seen: list[calls.Call] = field(default_factory=list)
    live: int = 0
    padding: str = ""
    closed: int = 0

    async def Generate(self, request, context):
        self.seen.append(calls.current())
        self.live += 1
        try:
            if request.prompt in self.raises:
                raise self.raises[request.prompt]
            _, count, pause_ms, *then = request.prompt.split()
            for number in range(int(count)):
                yield pb.GenerateResponse(text=str(number) + self.padding)
                await asyncio.sleep(int(pause_ms) / 1000)
            if then:
                raise self.raises[then[0]]
        finally:
            self.live -= 1
            self.closed += 1

    async def CountTokens(self, request, context):
        self.seen.append(calls.current())
        if request.prompt in self.raises:
            raise self.raises[request.prompt]
        if request.prompt == "sleep":
            await asyncio.sleep(600)
        return pb.CountTokensResponse(tokens=len(request.prompt))


@dataclass
class Bench:
    """A running server, its servicer, and what was observed."""

    server: GrpcServer
    script: Script
    ended: list[Ended]
    channels: list[Channel]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def channel(self, **options: Any) -> Channel:
        channel = Channel(self.target, name="gateway", **options)
        self.channels.append(channel)
        return channel


@pytest.fixture
async def serve() -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    benches: list[Bench] = []

    async def start(authenticate=None, **settings: Any) -> Bench:
        script, ended = Script(), []
        service = Service(
            NAME, lambda server: rpc.add_GenerationServiceServicer_to_server(script, server)
        )
        server = GrpcServer(
            Settings(**settings),
            [service],
            authenticate=authenticate,
            ids=CountedIds("made"),
            observe=ended.append,
        )
        await server.start()
        benches.append(Bench(server, script, ended, []))
        return benches[-1]

    yield start
    for bench in benches:
        for channel in bench.channels:
            await channel.aclose()
        await bench.server.stop(0)


@pytest.fixture(autouse=True)
def _logs():
    with structlog.testing.capture_logs() as lines:
        yield lines


async def key_is_good(metadata: Mapping[str, str], method: str) -> object:
    if metadata.get("authorization") != "Bearer csl_good_key":
        raise ConsiliumError("unauthenticated", f"for {method}")
    return "principal-1"


@pytest.fixture
def authenticate():
    return key_is_good


@pytest.fixture
def until():
    return until_true
