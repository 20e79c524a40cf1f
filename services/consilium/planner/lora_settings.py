"""The `lora` block of an engine's settings, with its slots counted: what the engine starts with and what the planner bills.

Takes plain values of consilium.yaml. Knows which adapters are pinned on which executor. Does not know files, shapes or vLLM's arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

LEAST_SLOTS: Final = 4
"""Slots where nobody says how many."""

SPARE_SLOTS: Final = 2
"""Slots beside the pinned ones: one adapter answers while the next is loaded."""

DEFAULT_RANK: Final = 16
RAM_PER_SLOT: Final = 2
DEFAULT_WAIT_S: Final = 10.0
READ_S: Final = 30.0
READY_S: Final = 120.0
CACHE_GIB: Final = 20.0


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """LoRA settings of one engine, all of them numbers.

    slots       adapters on the card at once; at least one is never pinned
    max_rank    largest rank; every slot is paid for at this rank
    ram         adapters in the engine's memory, those in slots included
    modules     modules that have slots, by their last name; empty = all that vLLM can serve
    max_wait_s  longest that a call waits for a slot
    read_s      longest silence of a disk while files of adapters are read
    ready_s     longest that a start waits for the next pinned adapter
    cache_gib   most that fetched adapters take on a node that does not see the store
    """

    slots: int
    max_rank: int = DEFAULT_RANK
    ram: int = 0
    modules: tuple[str, ...] = ()
    max_wait_s: float = DEFAULT_WAIT_S
    read_s: float = READ_S
    ready_s: float = READY_S
    cache_gib: float = CACHE_GIB

    @property
    def limits(self) -> dict[str, float]:
        """Return what holds for files and starts, by name."""
        return {"read_s": self.read_s, "ready_s": self.ready_s, "cache_gib": self.cache_gib}


def pinned(adapters: Mapping[str, Any], executor: str) -> tuple[str, ...]:
    """Return the adapters that `executor` keeps pinned: those with placement vram that may be there.

    An adapter that names no executor counts on each one, because which models it fits is known only from its files.
    """
    return tuple(
        name
        for name, row in adapters.items()
        if row.get("placement") == "vram" and _may_hold(row, executor)
    )


def counted(
    block: Mapping[str, Any] | None, adapters: Mapping[str, Any], executor: str
) -> LoraSettings | None:
    """Return the LoRA settings of an executor's engine, or None where LoRA is off: nothing asks for it, or its slots are 0.

    block     `engine.lora` of that executor, None = not written: on if an adapter is configured for it, else off
    adapters  the section `adapters`: name -> plain values
    """
    if block is None and not any(_may_hold(row, executor) for row in adapters.values()):
        return None
    said = {key: value for key, value in (block or {}).items() if value is not None}
    asked = said.get("slots", "auto")
    if asked == 0:
        return None
    held = len(pinned(adapters, executor))
    slots = max(LEAST_SLOTS, held + SPARE_SLOTS) if asked == "auto" else int(asked)
    return LoraSettings(
        slots,
        int(said.get("max_rank", DEFAULT_RANK)),
        max(slots, int(said.get("ram", RAM_PER_SLOT * slots))),
        tuple(said.get("target_modules") or ()),
        float(said.get("max_wait_s", DEFAULT_WAIT_S)),
        float(said.get("read_s", READ_S)),
        float(said.get("ready_s", READY_S)),
    )


def with_counted(
    engine: Mapping[str, Any], adapters: Mapping[str, Any] | None, executor: str
) -> dict[str, Any]:
    """Return an `engine:` block whose `lora` has its slots counted; without `lora` where LoRA is off."""
    found = counted(engine.get("lora"), adapters or {}, executor)
    plain = {key: value for key, value in engine.items() if key != "lora"}
    if found is None:
        return plain
    lora = {
        "slots": found.slots,
        "max_rank": found.max_rank,
        "ram": found.ram,
        "target_modules": list(found.modules),
    }
    return {**plain, "lora": lora}


def over(base: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an executor's `engine:` block over the common one, key by key, inside `lora` too. None = not set."""
    said = {key: value for key, value in (own or {}).items() if value is not None}
    lora = said.get("lora")
    if isinstance(lora, Mapping) and isinstance(base.get("lora"), Mapping):
        mine = {key: value for key, value in lora.items() if value is not None}
        said["lora"] = {**base["lora"], **mine}
    return {**base, **said}


def _may_hold(row: Mapping[str, Any], executor: str) -> bool:
    named = row.get("executors") or ()
    return not named or executor in named
