"""The rules by which vLLM holds adapters, without a model: two caches that forget what was used least recently, and slots that are filled from memory.

For tests of everything in front of an engine. Knows vLLM's rules (notes in the room's README). Does not know tasks or calls.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.slots import SlotMap


class EchoSlots:
    """Obeys the holder port. `mark` says what a request that names an adapter would be answered with; `fault` may raise before a move."""

    def __init__(
        self, slots: int, ram: int, *, fault: Callable[[str, int], None] | None = None
    ) -> None:
        self._slots: list[int | None] = [None] * slots
        self._active: OrderedDict[int, None] = OrderedDict()
        self._ram: OrderedDict[int, str] = OrderedDict()
        self._read: dict[int, str] = {}
        self._room = ram
        self._fault = fault or (lambda _kind, _number: None)
        self.surprises: list[str] = []

    async def look(self) -> SlotMap:
        """Say what is held."""
        await asyncio.sleep(0)
        return SlotMap(tuple(self._slots), frozenset(self._ram))

    async def read(self, target: AdapterTarget) -> None:
        """Read the adapter: its mark is its reference."""
        await asyncio.sleep(0)
        self._fault("read", target.number)
        self._read[target.number] = target.reference

    async def keep(self, target: AdapterTarget, victims: Sequence[int]) -> SlotMap:
        """Keep what was read; what is over goes by age, which is a surprise to whoever chose the victims."""
        for victim in victims:
            self._forget(victim)
        self._fault("keep", target.number)
        if target.number not in self._ram and len(self._ram) >= self._room:
            oldest = next(iter(self._ram))
            self.surprises.append(f"{oldest} pushed out of memory")
            self._forget(oldest)
        self._ram[target.number] = self._read.pop(target.number)
        self._ram.move_to_end(target.number)
        return await self.look()

    async def take(self, target: AdapterTarget, victim: int | None) -> SlotMap:
        """Fill a slot."""
        if victim is not None:
            self._vacate(victim)
        self._fault("take", target.number)
        if target.number not in self._ram:
            message = f"{target.reference} is not in memory"
            raise RuntimeError(message)
        if target.number not in self._active:
            if len(self._active) >= len(self._slots):
                oldest = next(iter(self._active))
                self.surprises.append(f"{oldest} pushed out of its slot")
                self._vacate(oldest)
            self._slots[self._slots.index(None)] = target.number
        self._active[target.number] = None
        self._active.move_to_end(target.number)
        return await self.look()

    async def drop(self, numbers: Sequence[int]) -> SlotMap:
        """Forget."""
        for number in numbers:
            self._forget(number)
        return await self.look()

    def mark(self, number: int) -> str:
        """Return the mark of the adapter in a slot. Raises RuntimeError if none holds it: a real engine would load it now, or die."""
        if number not in self._slots:
            message = f"a request names {number}, and no slot holds it"
            raise RuntimeError(message)
        self._active.move_to_end(number)
        return self._ram[number]

    def restart(self) -> None:
        """Forget everything, as a process that ended does."""
        self._slots = [None] * len(self._slots)
        self._active.clear()
        self._ram.clear()
        self._read.clear()

    def _vacate(self, number: int) -> None:
        self._active.pop(number, None)
        if number in self._slots:
            self._slots[self._slots.index(number)] = None

    def _forget(self, number: int) -> None:
        self._vacate(number)
        self._ram.pop(number, None)
