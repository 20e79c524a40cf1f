"""What many adapters cost one engine: throughput with a thousand registered, with more in use than there are slots, and what a load costs others.

    python -m tests.bench.adapters [--slots 8] [--ram 64] [--requests 240] [--rounds 3] [--only fewer,thousand,eightfold,tiers]

One engine on this machine's cores, tiny model, 8 slots, 64 in memory, 32 tokens, 16 callers. Each throughput is a ratio of runs that take turns, with the peer against
itself as the noise: by the clock, and by the processor time of the engine's core, which others on this machine cannot take. What we expected before the first run:

    fewer      5 adapters, 8 to 12 callers against 16: what a batch with as many calls gives; a step of the tiny model costs nearly the same for any, so about callers / 16
    thousand   1000 registered against 5, Zipf 1.1 over each: 0.95 or more; a slot load takes about 1 ms and a read 5 to 10 ms beside the engine, so 0.9 to 1.0
    eightfold  64 in use against 8 over 8 slots: 0.8 or more; calls of 32 tokens hold a slot long enough, so 0.7 to 0.9
    tiers      first token: slot 1x, memory + 1 to 5 ms, store + 10 to 40 ms, growing with the rank; other streams' longest gap: no longer than alone
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from consilium.demo import tiny
from consilium.engine import heavy_imports, wire
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.ports import Call
from consilium.engine.slots import Tier
from consilium.kernel.errors import ConsiliumError
from tests import made_adapters
from tests.bench.stats import interval, verdict

SLOTS: Final = 8
RAM: Final = 64
TOKENS: Final = 32
CALLERS: Final = 16
ZIPF: Final = 1.1
FEWER: Final = (8, 10, 12)
RANKS: Final = (8, 16, 64)
TIMES: Final = 7

Draw = Callable[[random.Random], AdapterTarget]


@dataclass(frozen=True, slots=True)
class Run:
    """One run: tokens per second, and per second that the engine's core computed; calls in the engine at once, the longest wait for a slot, refused calls."""

    rate: float
    per_core_s: float
    in_engine: float
    longest_wait_s: float
    refused: int


class Bench:
    """One engine and its adapters."""

    def __init__(self, engine: Any, requests: int) -> None:
        self._engine, self._requests = engine, requests
        self.desk: AdapterDesk = engine.adapters
        self._ids = iter(range(10**9))

    def call(self, target: AdapterTarget | None, tokens: int, *, stream: bool = False) -> Call:
        number = next(self._ids)
        body = {
            "model": self._engine.info().model,
            "messages": [{"role": "user", "content": f"Tell me about number {number}."}],
            "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": stream,
        }  # fmt: skip
        return Call(
            f"b{number}", "chat", body, adapter=None if target is None else target.reference
        )

    async def run(self, draw: Draw, seed: int, *, callers: int = CALLERS) -> Run:
        """Ask from so many callers at once until all requests are answered."""
        chance, left = random.Random(seed), self._requests
        wait, refused, done, in_engine_s = 0.0, 0, 0, 0.0

        async def caller() -> None:
            nonlocal left, wait, refused, done, in_engine_s
            while left > 0:
                left -= 1
                try:
                    reader, asked, waited_s = wire.Reader(), time.monotonic(), 0.0
                    async for frame in self._engine.stream(self.call(draw(chance), TOKENS)):
                        head = reader.take(frame).head
                        if head is not None:
                            waited_s = (head.adapter_wait_ms or 0.0) / 1000
                    done, wait = done + 1, max(wait, waited_s)
                    in_engine_s += time.monotonic() - asked - waited_s
                except ConsiliumError:
                    refused += 1

        began, computed = time.monotonic(), children_s()
        await asyncio.gather(*(caller() for _ in range(callers)))
        took, computed = time.monotonic() - began, children_s() - computed
        tokens = done * TOKENS
        return Run(tokens / took, tokens / computed, in_engine_s / took, wait, refused)

    async def first_token(self, target: AdapterTarget) -> float:
        """Return milliseconds to the first token of a stream."""
        began = time.monotonic()
        async with aclosing(self._engine.stream(self.call(target, 2, stream=True))) as frames:
            await anext(frames)
            await anext(frames)
            return (time.monotonic() - began) * 1000

    async def gap_beside(self, work: Callable[[], Any]) -> float:
        """Return the longest gap in milliseconds that a stream without an adapter saw while `work` was done."""
        async with aclosing(self._engine.stream(self.call(None, 400, stream=True))) as frames:
            for _ in range(10):
                await anext(frames)
            task = asyncio.ensure_future(work())
            last, longest, after = time.monotonic(), 0.0, 0
            async for _ in frames:
                now = time.monotonic()
                longest, last = max(longest, now - last), now
                after += task.done()
                if after > 5:
                    break
            await task
            return longest * 1000


def children_s() -> float:
    """Return the processor seconds that the processes under this one have taken."""
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))


def zipf(targets: Sequence[AdapterTarget]) -> Draw:
    weights = [1 / (place + 1) ** ZIPF for place in range(len(targets))]
    return lambda chance: chance.choices(targets, weights)[0]


def even(targets: Sequence[AdapterTarget]) -> Draw:
    return lambda chance: chance.choice(targets)


async def ratio(
    bench: Bench, name: str, ours: Draw, peer: Draw, *, rounds: int, bar: float = 0.0, callers: int = CALLERS
) -> str:  # fmt: skip
    """Return lines about ours against the peer, with the peer against itself."""
    await bench.run(peer, 0)
    await bench.run(ours, 0, callers=callers)
    by_clock, by_core = Pairs([], []), Pairs([], [])
    mines: list[Run] = []
    for round_ in range(1, rounds + 1):
        first = await bench.run(peer, round_)
        mine = await bench.run(ours, round_, callers=callers)
        second = await bench.run(peer, round_ + 1000)
        mines.append(mine)
        by_clock.add(first.rate, mine.rate, second.rate)
        by_core.add(first.per_core_s, mine.per_core_s, second.per_core_s)
        print(f"  {name} {round_}: {first.rate:.0f}, {mine.rate:.0f}, {second.rate:.0f} tokens/s; {first.per_core_s:.0f}, {mine.per_core_s:.0f}, {second.per_core_s:.0f} per core second", flush=True)  # fmt: skip
    told = f", {verdict(interval(by_clock.ratios), interval(by_clock.floors), bar, at_least=True)}" if bar else ""  # fmt: skip
    most = max(one.longest_wait_s for one in mines)
    return (
        f"{name}: by the clock {by_clock}{told}; by core seconds {by_core}; in the engine at once {median(one.in_engine for one in mines):.1f} of {callers};"
        f" longest wait {most:.2f} s, {sum(one.refused for one in mines)} refused"
    )


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ratios of ours to the peer, and of the peer to itself."""

    ratios: list[float]
    floors: list[float]

    def add(self, first: float, mine: float, second: float) -> None:
        self.ratios.extend((mine / first, mine / second))
        self.floors.extend((first / second, second / first))

    def __str__(self) -> str:
        return f"{interval(self.ratios)}, peer against itself {interval(self.floors)}"


async def tiers(bench: Bench, folder: Path) -> Table:
    """Return the table of first tokens and gaps by rank and tier."""
    table = Table(
        title=f"first token in ms, median of {TIMES}; longest gap of another stream in ms"
    )
    for head in ("rank", "slot", "memory", "store", "gap alone", "gap, memory", "gap, store"):
        table.add_column(head, justify="right")
    for rank in RANKS:
        made = [made_adapters.make(folder, 5000 + rank * 100 + n, rank=rank) for n in range(12)]
        bench.desk.told(made)
        one = made[0]
        firsts: dict[Tier, list[float]] = {tier: [] for tier in Tier}
        for _ in range(TIMES):
            await bench.desk.evict(one.reference)
            firsts[Tier.SSD].append(await bench.first_token(one))
            firsts[Tier.SLOT].append(await bench.first_token(one))
            await bench.desk.evict(one.reference)
            await bench.desk.place(one.reference, Tier.RAM)
            firsts[Tier.RAM].append(await bench.first_token(one))
        alone = await bench.gap_beside(lambda: asyncio.sleep(0.3))
        stored = made[1:6]
        gap_store = await bench.gap_beside(lambda stored=stored: _all(bench, stored, Tier.RAM))
        gap_ram = await bench.gap_beside(lambda stored=stored: _all(bench, stored, Tier.SLOT))
        row = [median(firsts[tier]) for tier in (Tier.SLOT, Tier.RAM, Tier.SSD)]
        table.add_row(str(rank), *(f"{value:.1f}" for value in (*row, alone, gap_ram, gap_store)))
        for target in made:
            await bench.desk.evict(target.reference)
        bench.desk.told([], [target.reference for target in made])
    return table


async def _all(bench: Bench, targets: Sequence[AdapterTarget], tier: Tier) -> None:
    for target in targets:
        await bench.desk.place(target.reference, tier)


async def bench(args: argparse.Namespace) -> None:
    heavy_imports.load("consilium.engine.backends.vllm")
    from consilium.engine.backends.vllm import VllmEngine, VllmSettings

    with tempfile.TemporaryDirectory(prefix="csl-bench-") as root:
        folder = Path(root)
        model = tiny.make(folder / "tiny")
        settings = VllmSettings(
            "core",
            {
                "model": str(model), "served_model_name": "tiny", "enforce_eager": True,
                "max_model_len": 1024, "max_num_seqs": CALLERS + 2, "enable_lora": True,
                "max_loras": args.slots, "max_cpu_loras": args.ram, "max_lora_rank": max(RANKS) if "tiers" in args.only else 8,
                "kv_cache_memory_bytes": 2**28,
            },
        )  # fmt: skip
        engine = VllmEngine(settings)
        await engine.start()
        try:
            here = Bench(engine, args.requests)
            lines = []
            if "fewer" in args.only:
                made = [made_adapters.make(folder / "f", 4000 + n, spread=0.1) for n in range(5)]
                here.desk.told(made)
                draw = zipf(made)
                lines += [await ratio(here, f"{some} callers", draw, draw, rounds=args.rounds, callers=some) for some in FEWER]  # fmt: skip
            if "thousand" in args.only:
                made = [made_adapters.make(folder / "a", seed, spread=0.1) for seed in range(1000)]
                here.desk.told(made)
                lines.append(await ratio(here, "thousand", zipf(made), zipf(made[:5]), rounds=args.rounds, bar=0.95))  # fmt: skip
            if "eightfold" in args.only:
                made = [made_adapters.make(folder / "b", 2000 + n, spread=0.1) for n in range(SLOTS * 8)]  # fmt: skip
                here.desk.told([replace(one, placement="ram") for one in made])
                await here.desk.settle()
                lines.append(await ratio(here, "eightfold", even(made), even(made[:SLOTS]), rounds=args.rounds, bar=0.8))  # fmt: skip
            console = Console(width=140)
            for line in lines:
                console.print(line)
            if "tiers" in args.only:
                console.print(await tiers(here, folder / "c"))
        finally:
            await engine.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--slots", type=int, default=SLOTS, help="slots of the engine")
    parser.add_argument("--ram", type=int, default=RAM, help="adapters that fit into its memory")
    parser.add_argument("--requests", type=int, default=240, help="calls of one run")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs")
    parser.add_argument(
        "--only", default="fewer,thousand,eightfold,tiers", help="which of the four"
    )
    args = parser.parse_args()
    args.only = set(args.only.split(","))
    asyncio.run(bench(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
