"""What a change costs where thousands of adapters are registered: in the room of adapters, and in an engine that is told of all of them.

    python -m tests.bench.many_adapters [--count 10000]

Prints medians in milliseconds of a change of one adapter among so many, and of a call on an engine. Nothing is computed: the room has one executor that has reported,
the engine is the one of the rules (echo_slots.py) with 8 slots and 64 adapters in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.backends.echo_slots import EchoSlots
from consilium.engine.slots import Slots, Tier
from consilium.kernel.clock import SystemClock
from consilium.kernel.tables import Table
from consilium.lora_router.config import LoraRouter
from consilium.lora_router.desk import Desk, Maker
from consilium.lora_router.identity import lora_int_id
from consilium.lora_router.incoming import Limits
from consilium.lora_router.library import Library
from consilium.lora_router.ports import (
    Changes,
    Described,
    Held,
    Named,
    Placement,
    Proof,
    Registered,
    StoredVersion,
)
from consilium.lora_router.reports import Report
from consilium.lora_router.store import FILES, Store

TIMES = 21


class Rows:
    """A registry in memory."""

    def __init__(self, names: Sequence[Named], versions: Sequence[Held]) -> None:
        self._names, self._versions = names, versions

    async def load(self) -> tuple[Sequence[Named], Sequence[Held]]:
        """Return everything."""
        return self._names, self._versions

    async def save(self, changes: Changes) -> None:
        """Forget it."""

    async def aclose(self) -> None:
        """Do nothing."""


def stored(store: Store, number: int) -> tuple[Named, Held]:
    """Write an adapter of two bytes, and return its rows."""
    sha = hashlib.sha256(str(number).encode()).hexdigest()
    folder = store.folder(sha)
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"x")
    version = StoredVersion(
        f"a{number:05}", sha, lora_int_id(sha), folder, 8, 2, float(number), proof=Proof.OK
    )
    examples = tuple(f"question {each} of adapter {number}" for each in range(4))
    said = Registered(version.name, sha, domain=f"domain {number}", examples=examples)
    return Named(said), Held(version, dict.fromkeys(FILES, 1))


def fits(*_asked: object) -> str:
    """Find nothing wrong."""
    return ""


async def room(root: Path, count: int) -> Desk:
    """Return a room that knows so many adapters, and that one replica has reported to."""
    store = Store(root / "store")
    rows = [stored(store, number) for number in range(count)]
    library = await Library(
        store,
        Rows([named for named, _ in rows], [held for _, held in rows]),
        Limits(),
        lambda _folder: Described("", 8, 2, {}),
        clock=SystemClock(),
    ).open()
    parts: dict[str, Any] = dict.fromkeys(Maker.__dataclass_fields__, fits)
    desk = Desk(
        library, Table("adapters"), LoraRouter(), Maker(**parts), SystemClock(), root / "scratch"
    )
    desk.changed()
    await desk.fleet.report(
        Report("core", "core#0", base_config="{}", max_rank=16, ram_places=64, exact=True)
    )
    return desk


async def in_the_room(root: Path, count: int) -> dict[str, float]:
    """Return what changes of the room cost."""
    desk = await room(root, count)
    places = [Placement.SSD, Placement.RAM]

    async def placed(turn: int) -> None:
        await desk.library.place(f"a{turn:05}", places[turn % 2])

    return {
        "room: an adapter is placed elsewhere (Desk.changed)": await median(
            lambda _turn: now(desk.changed), before=placed
        ),
        "room: nothing has changed (Desk.changed)": await median(lambda _turn: now(desk.changed)),
    }


class Counts:
    """Counts nothing."""

    def hit(self, tier: Tier) -> None:
        """Do nothing."""

    def loaded(self, tier: Tier, seconds: float, *, well: bool) -> None:
        """Do nothing."""

    def state(self, *, slots: int, ram: int, waiting: int, evictions: int) -> None:
        """Do nothing."""


def target(number: int, placement: str) -> AdapterTarget:
    """Return an adapter as the router tells of it."""
    return AdapterTarget(f"a{number}:sha", "f" * 64, number, 8, 1000, f"/s/{number}", placement)


@asynccontextmanager
async def read_at_once(asked: AdapterTarget) -> AsyncIterator[AdapterTarget]:
    """Read nothing."""
    yield asked


async def in_the_engine(count: int) -> dict[str, float]:
    """Return what an engine's desk does for a change, and for a call, where all are to be kept in memory."""
    desk = AdapterDesk(
        EchoSlots(8, 64), Slots(8, 64), files=read_at_once, counts=Counts(), on_alarm=print
    )
    await desk.start()
    desk.told([target(number, "ram") for number in range(1, count + 1)])
    await desk.settle()
    places = ["ssd", "ram"]

    async def called(turn: int) -> None:
        async with desk.hold(f"a{turn % 4 + 1}:sha"):
            pass

    await called(0)
    await desk.settle()
    found = {
        "engine: one adapter is told of anew (AdapterDesk.told)": await median(
            lambda turn: now(lambda: desk.told([target(turn + 100, places[turn % 2])]))
        ),
        "engine: a call is let in and ends (AdapterDesk.hold)": await median(called),
    }
    desk.close()
    return found


async def now(act: Callable[[], object]) -> None:
    """Do it."""
    act()


async def median(
    act: Callable[[int], Awaitable[object]],
    *,
    before: Callable[[int], Awaitable[object]] | None = None,
) -> float:
    """Return the median time of an act, in milliseconds."""
    took = []
    for turn in range(TIMES):
        if before is not None:
            await before(turn)
        began = time.perf_counter()
        await act(turn)
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=10_000)
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as root:
        found = {**await in_the_engine(count), **await in_the_room(Path(root), count)}
    print(f"{count} adapters, medians of {TIMES}")
    for what, took in found.items():
        print(f"{took:10.2f} ms  {what}")


if __name__ == "__main__":
    asyncio.run(main())
