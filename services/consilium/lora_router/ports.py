"""What an adapter is to the parts of this room: stored versions, where they are, and what is known of a model.

Values only. Knows no files, no SQL, no wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class Proof(StrEnum):
    """What is known of an adapter's effect."""

    UNPROVEN = "unproven"
    OK = "ok"
    NO_EFFECT = "no_effect"
    DEGENERATE = "degenerate"
    FAILED = "failed"
    DAMAGED = "damaged"
    """Its files are not what was stored: this is seen at the start, and never written down."""


class Placement(StrEnum):
    """Where an adapter is kept."""

    VRAM = "vram"
    RAM = "ram"
    SSD = "ssd"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a check refused, or remarked.

    code    short name of the rule, such as rank_too_large
    where   tensor, key or file that it is about
    reason  what is wrong, with the values
    way     what to do about it
    """

    code: str
    where: str
    reason: str
    way: str

    def __str__(self) -> str:
        """Return it as one sentence."""
        return f"{self.where}: {self.reason}. {self.way} ({self.code})"


@dataclass(frozen=True, slots=True)
class Described:
    """What the files of an adapter say, after every check that needs no model.

    sha      SHA-256 of tensors and of what the configuration means, 64 hex characters
    modules  module -> (rank, in, out)
    is_3d    whether experts are stored in three dimensions
    base     name of the model that it was trained on, as its configuration says, or ""
    config   what of its configuration has a meaning
    """

    sha: str
    rank: int
    size_bytes: int
    modules: Mapping[str, tuple[int, int, int]]
    is_3d: bool = False
    base: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    remarks: tuple[Refusal, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """What one model has shown of a version: whether it is sound there, and what it shows when it is."""

    proof: Proof = Proof.UNPROVEN
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One content in the store.

    path      its folder: adapter_model.safetensors and adapter_config.json, nothing else
    parts     of a sum: (reference, weight) each
    trials    revision of a model -> what it has shown there; `proof` is all in all
    """

    name: str
    sha: str
    lora_int_id: int
    path: Path
    rank: int
    size_bytes: int
    stored_at: float
    is_3d: bool = False
    base: str = ""
    proof: Proof = Proof.UNPROVEN
    proof_json: str = ""
    fingerprint: str = ""
    remarks: tuple[str, ...] = ()
    parts: tuple[tuple[str, float], ...] = ()
    trials: Mapping[str, Trial] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registered:
    """One name, with what was said of it.

    current    hash of the version that answers, or "" where none does
    """

    name: str
    current: str
    placement: Placement = Placement.RAM
    from_config: bool = False
    with_core: str = ""
    core_weight: float = 1.0
    weight: float = 1.0
    isolated: bool = False
    executors: tuple[str, ...] = ()
    domain: str = ""
    examples: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Uses:
    """What happened with one version: since it was stored, or since the last report.

    slot_hits     calls that found it in a slot
    ram_hits      calls that found it in an engine's memory
    misses        calls that waited for the store
    last_used_at  Unix seconds; 0 = never
    """

    slot_hits: int = 0
    ram_hits: int = 0
    misses: int = 0
    last_used_at: float = 0.0

    def __add__(self, other: Uses) -> Uses:
        """Return both together."""
        return Uses(
            self.slot_hits + other.slot_hits,
            self.ram_hits + other.ram_hits,
            self.misses + other.misses,
            max(self.last_used_at, other.last_used_at),
        )


@dataclass(frozen=True, slots=True)
class Named:
    """One name as the registry keeps it.

    origin  where the files of a configured adapter came from, and how they looked then; another origin means: read them again
    entry   what the configuration said of it, to tell a change of the file from a change by the CLI
    waiting  hash of the version that is to take over as soon as it may, or ""
    """

    registered: Registered
    origin: str = ""
    entry: str = ""
    waiting: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One version as the registry keeps it.

    file_bytes  size of each of its files, by name
    address     of a sum: what identity.sum_sha says of its parts; the version's own hash is that of its content
    """

    version: StoredVersion
    file_bytes: Mapping[str, int]
    address: str = ""
    uses: Uses = field(default_factory=Uses)


@dataclass(frozen=True, slots=True)
class Changes:
    """What is written to the registry in one transaction. What is gone goes first.

    gone_versions  (name, sha) of each
    """

    names: tuple[Named, ...] = ()
    versions: tuple[Held, ...] = ()
    gone_names: tuple[str, ...] = ()
    gone_versions: tuple[tuple[str, str], ...] = ()


class Registry(Protocol):
    """Where names and versions are kept: all of it is read once, at the start."""

    async def load(self) -> tuple[Sequence[Named], Sequence[Held]]:
        """Return everything."""

    async def save(self, changes: Changes) -> None:
        """Write all of it or nothing; it is on the disk when this returns. Raises ConsiliumError(disk_full | state_damaged)."""

    async def aclose(self) -> None:
        """Let go of the file."""
