"""What a replica tells of its adapters, and what it is asked for: values only, without the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from consilium.lora_router.ports import Placement, Proof, Uses


class MoveKind(StrEnum):
    """What a replica may be asked to do with one version."""

    SLOT = "slot"
    RAM = "ram"
    EVICT = "evict"
    TRY = "try"


@dataclass(frozen=True, slots=True)
class SlotView:
    """One slot of an engine; reference "" = free."""

    slot: int
    reference: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class UseNote:
    """What happened with one version since the last report.

    in_use   calls that use it now
    failure  why its last load failed, or ""
    """

    reference: str
    in_use: int = 0
    uses: Uses = field(default_factory=Uses)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class TriedNote:
    """The result of a canary."""

    reference: str
    proof: Proof
    figures: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """One report of one replica. See ReportRequest for what each field is."""

    executor: str
    replica: str
    version: int = 0
    slots: tuple[SlotView, ...] = ()
    ram: tuple[str, ...] = ()
    uses: tuple[UseNote, ...] = ()
    tried: tuple[TriedNote, ...] = ()
    done: tuple[int, ...] = ()
    max_rank: int = 0
    ram_places: int = 0
    base_revision: str = ""
    base_config: str = ""
    exact: bool = False
    sees_store: bool = False
    wait_s: float = 0.0
    target_modules: tuple[str, ...] = ()
    mixed_experts: bool = False
    doing: frozenset[int] = frozenset()
    tells_doing: bool = False

    @property
    def in_slots(self) -> frozenset[str]:
        """Return the references that lie in slots."""
        return frozenset(each.reference for each in self.slots if each.reference)

    @property
    def held(self) -> frozenset[str]:
        """Return the references that lie in slots or in memory."""
        return self.in_slots | frozenset(self.ram)

    def has_done(self, kind: MoveKind, reference: str) -> bool:
        """Return whether a version is where a move would bring it."""
        if kind is MoveKind.SLOT:
            return reference in self.in_slots
        return (reference in self.held) is (kind is MoveKind.RAM)


@dataclass(frozen=True, slots=True)
class Target:
    """One version that a replica may be asked for. See the message of that name."""

    reference: str
    sha: str
    lora_int_id: int
    rank: int
    size_bytes: int
    path: str
    placement: Placement
    is_3d: bool = False
    fingerprint: str = ""
    proof: Proof = Proof.UNPROVEN


@dataclass(frozen=True, slots=True)
class Move:
    """One thing to do; `id` comes back in `Report.done`."""

    id: int
    kind: MoveKind
    reference: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The answer to a report.

    version  of the targets that the replica holds after it
    whole    `targets` are all of them
    """

    version: int
    whole: bool = False
    targets: tuple[Target, ...] = ()
    gone: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Say whether nothing is wanted."""
        return not (self.whole or self.targets or self.gone or self.moves)


Fits = Mapping[str, tuple[str, ...]]
"""Executor -> why a version does not fit it; empty = it fits."""
