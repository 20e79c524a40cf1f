"""What the metrics page costs whoever asks for it, and what counting costs a turn.

    python -m tests.bench.metrics_page [--turns 1000] [--roles 50] [--scrapes 300]

Plays turns over many roles and keys through the gateway's own objects, on the echo backend, in a process that writes its figures into files as a gateway does. Then asks
the supervisor's page for them, with a page that Ray's agent of a one-machine cluster has given (ray_page.txt.gz) as its other source; and once more with an agent that
hangs. Exits 1 when the 99th percentile is over 150 ms or the page over 1 MiB.

The cost of a turn is that of the same turns with and without counting, in blocks that take turns; the blocks without against each other are the noise.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from consilium.engine.backends.echo import EchoEngine
from consilium.engine.client import EngineClient
from consilium.gateway import turn
from consilium.gateway.adapters import Adapters
from consilium.gateway.cast import Ask, Cast, Played
from consilium.gateway.config import Gateway, Role
from consilium.gateway.gate import Gate
from consilium.gateway.meter import GatewayMeter
from consilium.gateway.receipt import Receipt
from consilium.gateway.roles import read
from consilium.kernel import logs
from consilium.kernel.clock import SystemClock, UlidIds
from consilium.kernel.metrics import of_this_process
from consilium.kernel.ports import free_port
from consilium.supervisor.metrics_page import MetricsServer
from tests.bench.stats import interval

BAR_MS = 150.0
BAR_BYTES = 1 << 20
REAL_TURN_MS = 38.0
"""A turn of 21 tokens with the tiny model on two cores, by vLLM's own histogram: no turn of a useful model is shorter."""
BLOCKS = 20
PER_BLOCK = 250
RAY_PAGE = Path(__file__).with_name("ray_page.txt.gz")


class Uncounted(GatewayMeter):
    """Counts nothing."""

    def turn(self, played: Played) -> None:
        """Let it pass."""

    def inflight(self, executor: str) -> None:
        """Let it pass."""

    def refused(self, code: str) -> None:
        """Let it pass."""


async def _kept(_receipt: Receipt) -> None:
    return


async def cast_of(roles: int, *, counted: bool) -> Cast:
    """Return what turns over so many roles are played with."""
    engine = EchoEngine()
    await engine.start()
    gate, clock = Gate(256), SystemClock()
    names = {f"role-{number}": Role(frame="You are a sage.") for number in range(roles)}
    kind = GatewayMeter if counted else Uncounted
    return Cast(
        engine=EngineClient({"core": engine}),
        frames=read(names, Path()),
        profiles={},
        limits=Gateway(),
        gate=gate,
        clock=clock,
        ids=UlidIds(),
        keep=_kept,
        meter=kind(of_this_process(), gate),
        adapters=Adapters(None, None, None, clock),
    )


async def play(cast: Cast, number: int, roles: int) -> None:
    """Play one streamed turn."""
    body: dict[str, object] = {
        "model": f"role/role-{number % roles}",
        "messages": [{"role": "user", "content": "one two three four five six seven eight"}],
        "stream": True,
    }
    key = f"key-{number % 20}"
    answer = await turn.play(cast, Ask("chat", body, 200, key, key_name=key, admission_s=0.0004))
    async for _ in answer:
        pass


async def play_all(turns: int, roles: int) -> None:
    """Play the turns, and say what counting costs one."""
    cast = await cast_of(roles, counted=True)
    for number in range(turns):
        await play(cast, number, roles)
    await turn.finish_background()
    costs = await blocks(cast, await cast_of(roles, counted=False), roles)
    print(costs, flush=True)


async def blocks(counted: Cast, uncounted: Cast, roles: int) -> str:
    """Return, in words, what counting adds to a turn: blocks of uncounted, counted, uncounted turns."""
    added: list[float] = []
    noise: list[float] = []
    length: list[float] = []
    for _ in range(BLOCKS):
        first, with_counts, second = [
            await block(cast, roles) for cast in (uncounted, counted, uncounted)
        ]
        added.append(with_counts - (first + second) / 2)
        noise.append(second - first)
        length.append((first + second) / 2)
    cost, spread = interval(added), interval(noise)
    turn_us = statistics.median(length)
    return (
        f"counting a turn: {cost.mid:.0f} us [{cost.low:.0f}, {cost.high:.0f}]; "
        f"uncounted against uncounted {spread.mid:.0f} us [{spread.low:.0f}, {spread.high:.0f}]; "
        f"{cost.mid / turn_us:.1%} of a turn of the echo backend ({turn_us:.0f} us), "
        f"{cost.mid / REAL_TURN_MS / 1000:.2%} of the shortest with an engine ({REAL_TURN_MS:g} ms)"
    )


async def block(cast: Cast, roles: int) -> float:
    """Return microseconds of processor time per turn: others work on this machine too."""
    began = time.process_time()
    for number in range(PER_BLOCK):
        await play(cast, number, roles)
    await turn.finish_background()
    return (time.process_time() - began) / PER_BLOCK * 1e6


@contextmanager
def ray_agent(page: bytes, hangs: threading.Event) -> Iterator[str]:
    """Serve a page as Ray's agent does; say nothing while it hangs."""

    class Agent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            while hangs.is_set():
                time.sleep(0.1)
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            with suppress(OSError):  # whoever asked waits no more
                self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


def scraped(port: int, scrapes: int) -> tuple[list[float], int, int]:
    """Return milliseconds of each scrape, sorted, and bytes of a page: plain, and packed as Prometheus takes it."""
    spent: list[float] = []
    plain = packed = 0
    for number in range(scrapes):
        encoding = "gzip" if number % 2 else "identity"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        began = time.perf_counter()
        connection.request("GET", "/metrics", headers={"accept-encoding": encoding})
        body = connection.getresponse().read()
        spent.append((time.perf_counter() - began) * 1000)
        connection.close()
        if encoding == "gzip":
            packed = len(body)
        else:
            plain = len(body)
    return sorted(spent), plain, packed


def told(name: str, spent: list[float]) -> float:
    """Print a line, and return the 99th percentile."""
    p99 = spent[int(len(spent) * 0.99) - 1]
    print(
        f"{name}: median {statistics.median(spent):.1f} ms, p99 {p99:.1f} ms, longest {spent[-1]:.1f} ms"
    )
    return p99


def main() -> int:
    """Run it. Returns 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.metrics_page")
    parser.add_argument("--turns", type=int, default=1000)
    parser.add_argument("--roles", type=int, default=50)
    parser.add_argument("--scrapes", type=int, default=300)
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.play:
        logs.configure("bench", level="error")
        asyncio.run(play_all(chosen.turns, chosen.roles))
        sys.stdin.readline()
        return 0
    with tempfile.TemporaryDirectory() as name:
        return _bench(chosen, Path(name))


def _bench(chosen: argparse.Namespace, folder: Path) -> int:
    words = ["--play", "--turns", str(chosen.turns), "--roles", str(chosen.roles)]
    gateway = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.metrics_page", *words],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert gateway.stdout is not None
    print(gateway.stdout.readline().strip())
    hangs = threading.Event()
    with ray_agent(gzip.decompress(RAY_PAGE.read_bytes()), hangs) as ray_url:
        port = free_port()
        server = MetricsServer(host="127.0.0.1", port=port, folder=folder, ray_url=ray_url)
        server.look_at(lambda: dict.fromkeys(("redis", "ray", "engine", "gateway"), True))
        server.start()
        spent, plain, packed = scraped(port, chosen.scrapes)
        p99 = told("page", spent)
        print(f"page: {plain} bytes, {packed} packed")
        hangs.set()
        scraped(port, 1)
        told("page while Ray's agent hangs, after the first", scraped(port, chosen.scrapes)[0])
        hangs.clear()
        server.stop()
    gateway.communicate("\n", timeout=30)
    met = p99 <= BAR_MS and plain <= BAR_BYTES
    print(f"bars of {BAR_MS:g} ms and {BAR_BYTES} bytes: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
