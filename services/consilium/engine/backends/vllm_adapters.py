"""Adapters of a vLLM engine: the holder that the desk moves adapters with, and the names under which its serving classes find them.

The other end of vllm_slots.py. Touches vLLM. Does not know who gets a slot (slots.py), or where adapters come from.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from vllm.lora.request import LoRARequest

from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget, RanksDifferError
from consilium.engine.backends.vllm_tap import TappedLLM
from consilium.engine.bounded_reads import SILENT_S, Beat, BoundedReads
from consilium.engine.slots import SlotMap, Slots, Tier
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.metrics import of_this_process

_log = logs.get("engine")

ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
SLOWEST_BYTES_S: Final = 16 * 2**20
"""Bytes of an adapter that a worker reads, packs and pins in a second, at least: the files come from the page cache."""
LOOK_S: Final = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds between two looks at a reading; the last one repeats."""


class VllmHolder:
    """Obeys the holder port.

    read_s  longest that a worker may take over a small adapter; a large one has longer, at SLOWEST_BYTES_S
    """

    def __init__(self, engine: TappedLLM, read_s: float = SILENT_S) -> None:
        self._engine, self._read_s = engine, read_s

    async def begin(self) -> None:
        """Prepare the workers, once."""
        await self._call("consilium_begin")

    async def look(self) -> SlotMap:
        """Say what is held."""
        return await self._map("consilium_slots")

    async def read(self, target: AdapterTarget) -> None:
        """Read an adapter in a thread of each worker. Raises RuntimeError with what went wrong there, and ConsiliumError(disk_silent)."""
        limit_s = self._read_s + target.size_bytes / SLOWEST_BYTES_S
        ends = time.monotonic() + limit_s
        paths = list(target.folders or (target.path,))
        await self._call("consilium_read", target.reference, target.number, paths, target.is_3d)
        looks = iter(LOOK_S)
        while True:
            await asyncio.sleep(next(looks, LOOK_S[-1]))
            states = await self._call("consilium_reading", target.number)
            if all(state is not None for state in states):
                break
            if time.monotonic() >= ends:
                _log.error("disk_silent", path=target.path, seconds=round(limit_s, 1))
                raise ConsiliumError(
                    "disk_silent", target.path, seconds=f"{limit_s:.0f}", retry_after_s=5.0
                )
        wrong = next((state for state in states if state), "")
        if wrong:
            raise RuntimeError(wrong)

    async def keep(self, target: AdapterTarget, victims: Sequence[int]) -> SlotMap:
        """Let the victims go, and keep what was read."""
        return await self._map("consilium_keep", target.number, list(victims))

    async def take(self, target: AdapterTarget, victim: int | None) -> SlotMap:
        """Fill a slot from memory."""
        return await self._map("consilium_take", target.number, victim)

    async def drop(self, numbers: Sequence[int]) -> SlotMap:
        """Take out of slots and memory."""
        return await self._map("consilium_drop", list(numbers))

    async def _map(self, method: str, *args: object) -> SlotMap:
        maps = await self._call(method, *args)
        if any(other != maps[0] for other in maps):
            message = f"the ranks of this engine hold different adapters: {maps}"
            raise RanksDifferError(message)
        return SlotMap(tuple(maps[0]["slots"]), frozenset(maps[0]["ram"]))

    async def _call(self, method: str, *args: object) -> list[Any]:
        # What was begun is seen through: its answer says what the engine holds, also when whoever asked has gone.
        call = asyncio.ensure_future(self._engine.collective_rpc(method, args=args))
        answers: list[Any] = await asyncio.shield(call)
        return answers


def request_of(target: AdapterTarget) -> LoRARequest:
    """Return what vLLM's calls name an adapter with."""
    return LoRARequest(target.reference, target.number, target.path, is_3d_lora_weight=target.is_3d)


class ServedNames:
    """The adapters that vLLM's serving classes may find just now: those that a call holds."""

    def __init__(self, lora_requests: dict[str, LoRARequest]) -> None:
        self._requests = lora_requests
        self._uses: Counter[str] = Counter()

    @contextmanager
    def shown(self, target: AdapterTarget) -> Iterator[None]:
        """Let them find this one while the block runs."""
        name = target.reference
        self._uses[name] += 1
        self._requests[name] = request_of(target)
        try:
            yield
        finally:
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name], self._requests[name]


async def open_desk(
    engine: TappedLLM,
    *,
    executor: str,
    max_wait_s: float,
    read_s: float = SILENT_S,
    on_alarm: Callable[[BaseException], None],
) -> AdapterDesk:
    """Return the desk of an engine that was started with slots for adapters."""
    lora = engine.vllm_config.lora_config
    slots = Slots(int(lora.max_loras), int(lora.max_cpu_loras), max_wait_s=max_wait_s)
    holder = VllmHolder(engine, read_s)
    await holder.begin()
    desk = AdapterDesk(
        holder,
        slots,
        files=read_through,
        counts=LoraCounts(executor),
        on_alarm=on_alarm,
        executor=executor,
    )
    await desk.start()
    return desk


@asynccontextmanager
async def read_through(target: AdapterTarget) -> AsyncIterator[AdapterTarget]:
    """Read the files of an adapter, so that they come from the page cache when an engine's worker reads them. Raises OSError, ConsiliumError(disk_silent)."""

    def read(beat: Beat) -> None:
        piece = bytearray(2**22)
        for name in ADAPTER_FILES:
            with (Path(target.path) / name).open("rb", buffering=0) as file:
                while file.readinto(piece):
                    beat()

    await BoundedReads().of(target.path, read)
    yield target


class LoraCounts:
    """Counts what the desk does, in the metrics of this process."""

    def __init__(self, executor: str) -> None:
        self._executor = executor
        self._metrics = of_this_process()
        self._evictions = 0

    def hit(self, tier: Tier) -> None:
        """Count a call by where it found its adapter."""
        self._metrics.add("consilium_lora_hits_total", executor=self._executor, tier=str(tier))

    def loaded(self, tier: Tier, seconds: float, *, well: bool) -> None:
        """Count a move into memory or a slot."""
        self._metrics.add(
            "consilium_lora_loads_total",
            executor=self._executor,
            tier=str(tier),
            result="ok" if well else "failed",
        )
        if well:
            self._metrics.observe("consilium_lora_load_seconds", seconds, tier=str(tier))

    def state(self, *, slots: int, ram: int, waiting: int, evictions: int) -> None:
        """Tell how things stand."""
        self._metrics.set(
            "consilium_lora_resident", slots, executor=self._executor, tier=str(Tier.SLOT)
        )
        self._metrics.set(
            "consilium_lora_resident", ram, executor=self._executor, tier=str(Tier.RAM)
        )
        self._metrics.set("consilium_lora_waiting", waiting, executor=self._executor)
        if evictions > self._evictions:
            self._metrics.add(
                "consilium_lora_evictions_total",
                evictions - self._evictions,
                executor=self._executor,
            )
            self._evictions = evictions
