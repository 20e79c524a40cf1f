"""The gateway on real sockets: uvicorn and grpc.aio on free ports, the echo engine and stores of this process behind them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import structlog
import uvicorn
from tests.component.gateway.greeter import TOKEN, Greeter, open_greeter
from tests.waiting import LIMIT_S, until_true

from consilium.embedding.backends.cl100k import Cl100k
from consilium.embedding.client import Embeddings, Fingerprint, Vectors
from consilium.embedding.names import ALIASES
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.client import EngineClient
from consilium.gateway import keys, turn
from consilium.gateway.backends.memory import open_stores
from consilium.gateway.config import Gateway, GatewayView, Profile, Role
from consilium.gateway.face import Face
from consilium.gateway.forwarding import Forwarding, Reached
from consilium.gateway.gate import Gate
from consilium.gateway.live_tables import LiveTables, reader
from consilium.gateway.meter import GatewayMeter
from consilium.gateway.public_face import PublicFace
from consilium.gateway.routes import HttpFace
from consilium.gateway.stores import Stores
from consilium.gateway.wiring import Opened, wire
from consilium.kernel.clock import SystemClock, UlidIds
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.grpc_server import GrpcServer, Settings
from consilium.kernel.metrics import Metrics
from consilium.kernel.private_file import write_private

PEPPER = b"pepper"


class TwoNumbers:
    """Embeds a text as two numbers made of its length and its words. Obeys the port of embedders."""

    async def embed(self, texts, kind="passage"):
        rows = np.array([(len(text), len(text.split())) for text in texts], dtype=np.float32)
        return Vectors(
            rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9),
            tuple(len(text.split()) for text in texts),
        )

    def fingerprint(self):
        return Fingerprint("two-numbers", "1", 2, "none")

    async def aclose(self):
        return


class QuickServer(uvicorn.Server):
    """uvicorn looks ten times a second whether it shall end; hundreds of tests would wait for that."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:  # noqa: ASYNC110  a signal's handler sets it
            await asyncio.sleep(0.005)


class HeldEngine(EchoEngine):
    """Says no word after `!slow` until `go_on`, however long a test takes for what it does meanwhile."""

    def __init__(self, name: str = "core", **options: Any) -> None:
        super().__init__(name, **options)
        self.go_on = asyncio.Event()

    async def _pause(self, word: str) -> None:
        if word == "!slow":
            await self.go_on.wait()
        await super()._pause("" if word == "!slow" else word)


@dataclass
class Bench:
    """One running gateway and everything behind it."""

    face: Face
    public: PublicFace
    engines: dict[str, EchoEngine]
    stores: Stores
    server: uvicorn.Server
    serving: asyncio.Task[None]
    watching: asyncio.Task[None]
    port: int
    key: str
    following: asyncio.Task[None]
    opened: list[Any] = field(default_factory=list)

    @property
    def http(self) -> HttpFace:
        return self.public.http

    @property
    def grpc(self) -> GrpcServer:
        return self.public.grpc

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str | None = None, **options: Any) -> httpx.AsyncClient:
        made = httpx.AsyncClient(
            base_url=self.url,
            headers={"authorization": f"Bearer {key or self.key}"},
            timeout=LIMIT_S,
            verify=False,
            **options,
        )  # no TLS, so no certificates are read
        self.opened.append(made.aclose)
        return made

    def openai(self, key: str | None = None) -> openai.AsyncOpenAI:
        made = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1", api_key=key or self.key, max_retries=0, timeout=LIMIT_S
        )
        self.opened.append(made.close)
        return made

    def channel(self, key: str | None = None, **options: Any) -> Channel:
        known = {} if "token" in options else {"key": key or self.key}
        made = Channel(
            f"127.0.0.1:{self.grpc.port}", name="gateway", timeout_s=LIMIT_S, **known, **options
        )
        self.opened.append(made.aclose)
        return made

    async def new_key(self, **options: Any) -> str:
        text, record = keys.mint(PEPPER, now=SystemClock().now(), **{"name": "test", **options})
        await self.stores.keys.put(record)
        return text

    async def eventually(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not await condition():  # noqa: ASYNC110  the condition is another process's state
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], bool]) -> None:
        await until_true(condition)

    async def close(self) -> None:
        for close in self.opened:
            await close()
        self.server.should_exit = True
        self.following.cancel()
        await self.grpc.stop(0)
        self.watching.cancel()
        await self.public.aclose()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(self.serving, LIMIT_S)
        await turn.finish_background()
        await self.stores.close()


@pytest.fixture
async def gateway(tmp_path) -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    """Start a gateway; options are those of `serve` below."""
    benches: list[Bench] = []

    async def start(**options: Any) -> Bench:
        benches.append(await serve(tmp_path, **options))
        return benches[-1]

    yield start
    for bench in benches:
        await bench.close()


async def serve(
    tmp_path,
    *,
    engines: list[EchoEngine] | None = None,
    roles: dict[str, Role] | None = None,
    profiles: dict[str, Profile] | None = None,
    stores: Stores | None = None,
    places: int = 256,
    config: Path | None = None,
    view: type[GatewayView] = GatewayView,
    followed: dict[str, Any] | None = None,
    rooms: Sequence[Reached] = (),
    embeddings: Embeddings | None = None,
    page: str = "",
    **limits: Any,
) -> Bench:
    clock, ids = SystemClock(), UlidIds()
    running = engines or [EchoEngine()]
    for engine in running:
        await engine.start()
    settings = Gateway(**limits)
    kept = stores or open_stores(clock, receipt_ttl_s=600)
    gate = Gate(places)
    tables = LiveTables(
        config or write_config(tmp_path / f"{ids.new()}.json", roles, profiles),
        reader(view),
        clock,
    )
    wired = wire(
        Opened(
            limits=settings,
            tables=tables,
            engines=EngineClient({engine.info().name: engine for engine in running}),
            stores=kept,
            embeddings=embeddings
            or Embeddings(
                TwoNumbers(),
                model="two-numbers",
                aliases=ALIASES,
                may_be_cut=True,
                vocabulary=Cl100k(),
            ),
            forwarding=Forwarding(tuple(rooms), TOKEN, clock),
            followed=followed or {},
            gate=gate,
            meter=GatewayMeter(Metrics(), gate),
            clock=clock,
            ids=ids,
            page=page,
        ),
        Settings(reflection=True),
        pepper=PEPPER,
    )
    made = wired.public
    listener = socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    )  # with its protocol named, asyncio switches Nagle's delay off
    listener.bind(("127.0.0.1", 0))
    server = QuickServer(
        uvicorn.Config(made.http, ws="none", lifespan="off", log_level="warning", access_log=False)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await made.grpc.start()
    watching = asyncio.create_task(made.watch_rooms())
    bench = Bench(
        wired.face,
        made,
        {engine.info().name: engine for engine in running},
        kept,
        server,
        serving,
        watching,
        listener.getsockname()[1],
        "",
        asyncio.create_task(wired.desk.run()),
    )
    await bench.until(lambda: server.started)
    bench.key = await bench.new_key()
    return bench


def write_config(
    path: Path,
    roles: dict[str, Role] | None = None,
    profiles: dict[str, Profile] | None = None,
    **more: Any,
) -> Path:
    """Write the resolved configuration of a gateway, in one step."""
    tree = {
        "roles": {name: role.model_dump() for name, role in (roles or {}).items()},
        "profiles": {name: one.model_dump() for name, one in (profiles or {}).items()},
        **more,
    }
    write_private(path, json.dumps(tree))
    return path


@pytest.fixture(scope="session")
def greeter(tmp_path_factory) -> Iterator[Greeter]:
    """A room for all tests that leave it as it is."""
    made = open_greeter(tmp_path_factory.mktemp("greeter"))
    yield made
    made.kill()


@pytest.fixture
def own_greeter(tmp_path) -> Iterator[Greeter]:
    """A room that a test may end."""
    made = open_greeter(tmp_path / "own")
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def log_lines():
    with structlog.testing.capture_logs() as lines:
        yield lines


def chat(text: str = "one two three", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


def events(raw: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in raw.splitlines() if line.startswith("data: {")]
