"""The exporter of the cards while its driver hangs, and while it does not: how long a scrape takes, memory and cores, on a driver's library made for the tests.

    python -m tests.bench.gpu_scrape [--cards 8] [--seconds 60] [--period 1.0]

Written down before looking: a scrape takes less than 50 ms at the 99th percentile while the driver hangs, the exporter with its reader at most 100 MB and, at a reading a
second, 1 % of a core. Beside each scrape the same bytes are asked of Python's own http.server, from a file: what that takes is the machine's doing, and a busy one is told
by it. Needs a C compiler. Ends with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from consilium.kernel.ports import free_port
from tests.real import nvml
from tests.waiting import until

MOST_MS = 50.0
MOST_MB = 100.0
MOST_CORE = 0.01
EVERY_S = 0.1
"""Between two scrapes while the driver hangs; Prometheus itself asks every 15 s."""


class Exporter:
    """One exporter over the made driver, and what it takes."""

    def __init__(self, folder: Path, cards: int, period_s: float) -> None:
        self.hangs = folder / "hangs"
        port, grpc = free_port(), free_port()
        (folder / "token").write_text("of-this-bench")
        services = {
            "gpu_metrics": {"grpc": f"127.0.0.1:{grpc}", "metrics": f"http://127.0.0.1:{port}"}
        }
        config = folder / "config.json"
        config.write_text(json.dumps({"services": services, "gpu_metrics": {"period_s": period_s}}))
        self._peer: subprocess.Popen[bytes] | None = None
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self.process = psutil.Popen(
            [sys.executable, "-m", "consilium.gpu_metrics.app", "--config", str(config)],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(nvml.build(folder / "driver")),
                "FAKE_NVML": f"pro6000,count={cards}",
                "FAKE_NVML_HANGS": str(self.hangs),
            },
            stderr=subprocess.DEVNULL,
        )

    def page(self) -> str:
        """Return the page as Prometheus gets it, packed on the way."""
        return self._client.get("/metrics").text

    def wait(self, line: str, limit_s: float) -> float:
        """Return after how many seconds the page had a line."""
        began = time.monotonic()
        while time.monotonic() - began < limit_s:
            try:
                if line in self.page():
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        message = f"the page did not say {line!r} within {limit_s:g} s"
        raise SystemExit(message)

    def family(self) -> list[psutil.Process]:
        """Return the exporter and its readers."""
        return [self.process, *self.process.children(recursive=True)]

    def serve_bare(self, folder: Path) -> None:
        """Serve the page as a file, by a process that knows nothing."""
        (folder / "metrics").write_text(self.page())
        port = free_port()
        self._peer = subprocess.Popen(
            [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._bare = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        until(self._answers, 30)

    def _answers(self) -> bool:
        try:
            return bool(self.bare())
        except httpx.HTTPError:
            return False

    def bare(self) -> str:
        """Return the same bytes from a file."""
        return self._bare.get("/metrics").text

    def memory_mb(self) -> list[float]:
        """Return resident megabytes of each."""
        return [one.memory_info().rss / 1e6 for one in self.family()]

    def core_s(self) -> float:
        """Return seconds of a core that it has taken."""
        return sum(sum(one.cpu_times()[:2]) for one in self.family())

    def end(self) -> None:
        """Let the driver go on, and end what was started."""
        self.hangs.unlink(missing_ok=True)
        family = self.family()
        self.process.terminate()
        if self._peer is not None:
            self._peer.kill()
            self._peer.wait()
        _, alive = psutil.wait_procs(family, 20)
        for one in alive:
            one.kill()


def main() -> int:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cards", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the driver hangs")
    parser.add_argument("--period", type=float, default=1.0, help="seconds between two readings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exporter = Exporter(Path(folder), options.cards, options.period)
        try:
            return told(options, exporter, Path(folder) / "bare")
        finally:
            exporter.end()


def told(options: argparse.Namespace, exporter: Exporter, bare: Path) -> int:
    """Measure, and print a row for each bar."""
    exporter.wait("consilium_gpu_driver_up 1", 60)
    time.sleep(5)
    before, began = exporter.core_s(), time.monotonic()
    for _ in range(2):  # as often as Prometheus asks
        time.sleep(15)
        exporter.page()
    core = (exporter.core_s() - before) / (time.monotonic() - began)
    memory = exporter.memory_mb()
    size = len(exporter.page().encode())
    exporter.hangs.touch()
    noticed = exporter.wait("consilium_gpu_driver_up 0", 60)
    bare.mkdir()
    exporter.serve_bare(bare)
    took, floor = scrapes(exporter, options.seconds)
    hung = exporter.memory_mb()
    stuck = exporter.page().split("\nconsilium_gpu_readers_stuck ")[1].split()[0]
    exporter.hangs.unlink()
    back = exporter.wait("consilium_gpu_driver_up 1", 120)
    table = Table(
        "what", "found", "bar", title=f"{options.cards} cards, a page of {size / 1000:.0f} kB"
    )
    p99 = took[int(0.99 * len(took))]
    table.add_row(
        f"scrape while the driver hangs for {options.seconds:g} s, p99 of {len(took)}",
        spread(took),
        f"< {MOST_MS:g} ms",
    )
    table.add_row("the same bytes from a file, p99", spread(floor), "")
    parts = " + ".join(f"{one:.1f}" for one in memory)
    table.add_row("memory with its reader", f"{sum(memory):.1f} MB ({parts})", f"<= {MOST_MB:g} MB")
    table.add_row(
        f"cores at a reading every {options.period:g} s",
        f"{100 * core:.2f} %",
        f"<= {100 * MOST_CORE:g} %",
    )
    table.add_row(
        "a hung driver is told after; it is back after",
        f"{noticed:.1f} s; {back:.1f} s ({stuck} readers could not be ended, {sum(hung):.0f} MB)",
        "",
    )
    Console(width=140).print(table)
    return 0 if p99 < MOST_MS and sum(memory) <= MOST_MB and core <= MOST_CORE else 1


def spread(took: list[float]) -> str:
    """Return how long something took, from times in order."""
    p99, middle = took[int(0.99 * len(took))], took[len(took) // 2]
    return f"{p99:.1f} ms (median {middle:.1f}, worst {took[-1]:.1f})"


def scrapes(exporter: Exporter, seconds: float) -> tuple[list[float], list[float]]:
    """Return milliseconds of each scrape and of each look at the file beside it, in order of size."""
    took: tuple[list[float], list[float]] = ([], [])
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for ask, times in zip((exporter.page, exporter.bare), took, strict=True):
            began = time.perf_counter()
            ask()
            times.append(1e3 * (time.perf_counter() - began))
        time.sleep(EVERY_S)
    return sorted(took[0]), sorted(took[1])


if __name__ == "__main__":
    sys.exit(main())
