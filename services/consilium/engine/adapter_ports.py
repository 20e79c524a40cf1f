"""What the desk of adapters stands on: a target as the router tells of it, the engine's side, and where it counts.

Knows shapes. Does not know tasks, files or vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from consilium.engine.slots import SlotMap, Tier


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """How long disks are waited for, and what may lie on one.

    read_s     longest silence of a disk while files are read
    ready_s    longest that a start waits for the next pinned adapter
    cache_gib  most that fetched adapters take on a node that does not see the store
    """

    read_s: float = 30.0
    ready_s: float = 120.0
    cache_gib: float = 20.0


@dataclass(frozen=True, slots=True)
class AdapterTarget:
    """One version of an adapter, as the router tells of it.

    reference    what engines call it; it never means other content
    number       under which every engine knows it
    path         its folder in the store; after its files were read through, where they are on this node
    folders      where nodes of one engine have its files: each reads the first of these that is there
    placement    where it shall be kept: vram, ram or ssd
    is_3d        whether its experts are stored in three dimensions
    fingerprint  what it must show, "" = not known yet
    """

    reference: str
    sha: str
    number: int
    rank: int
    size_bytes: int
    path: str
    placement: str = "ssd"
    is_3d: bool = False
    fingerprint: str = ""
    folders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Held:
    """What a call is let in with. `tier` is where the adapter was when it asked, `wait_s` how long it waited."""

    target: AdapterTarget
    tier: Tier
    wait_s: float


class Holder(Protocol):
    """The engine's side: calls return what the engine holds afterwards, the same on all ranks. Raises RanksDifferError, or any error of the load."""

    async def look(self) -> SlotMap:
        """Say what is held."""

    async def read(self, target: AdapterTarget) -> None:
        """Read an adapter from its files, while the engine goes on."""

    async def keep(self, target: AdapterTarget, victims: Sequence[int]) -> SlotMap:
        """Let the victims go from memory, and keep there what was read."""

    async def take(self, target: AdapterTarget, victim: int | None) -> SlotMap:
        """Copy from memory into a slot, that of the victim if there is one."""

    async def drop(self, numbers: Sequence[int]) -> SlotMap:
        """Take out of slots and memory."""


class Counts(Protocol):
    """Where the desk counts."""

    def hit(self, tier: Tier) -> None:
        """Count a call by where it found its adapter."""

    def loaded(self, tier: Tier, seconds: float, *, well: bool) -> None:
        """Count a move into memory or a slot."""

    def state(self, *, slots: int, ram: int, waiting: int, evictions: int) -> None:
        """Tell how things stand."""


class RanksDifferError(RuntimeError):
    """Ranks of one engine hold different adapters: it would answer with a mixture."""
