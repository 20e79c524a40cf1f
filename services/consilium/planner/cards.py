"""Cards and server processors by name: memory, bandwidth, compute, power.

Knows data/gpus.json and data/cpus.json. Does not look at this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from consilium.kernel.errors import ConsiliumError
from consilium.planner.figures import GIB, constant, table
from consilium.planner.refusal import nearest, wrong

_SIZE_ONLY: Final = re.compile(r"^(\d+(?:\.\d+)?)\s*(gib|gb|g)$", re.IGNORECASE)
_COUNTED: Final = re.compile(r"^(\d{1,3})\s*[x*×]\s*(.+)$", re.IGNORECASE)
_USABLE_SHARE: Final = 0.985
MAX_CARDS: Final = 64


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU. Bandwidths in GB/s (10^9), compute in dense TFLOPS, 0 = not known or not in hardware."""

    name: str
    total_gib: float
    bandwidth_gb_s: float = 0.0
    bf16_tflops: float = 0.0
    fp8_tflops: float = 0.0
    fp4_tflops: float = 0.0
    watts: float = 0.0
    compute_capability: float = 0.0
    link_gb_s: float = 0.0
    link: str = ""
    unified: bool = False
    fp16_accumulate_tflops: float = 0.0

    @property
    def total_bytes(self) -> int:
        """Total as torch reports it."""
        return round(self.total_gib * GIB)


@dataclass(frozen=True, slots=True)
class Cpu:
    """One server or desktop processor set: `sockets` of `cores` each."""

    name: str
    channels: int
    mt_s: int
    cores: int
    ghz: float
    amx: bool
    avx512: bool
    watts: float
    sockets: int = 1

    @property
    def bandwidth_gb_s(self) -> float:
        """Theoretical memory bandwidth of all sockets: channels x MT/s x 8 bytes."""
        return self.channels * self.mt_s * 8 / 1000 * self.sockets


@lru_cache(maxsize=1)
def _gpu_index() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in table("gpus")["gpus"]:
        for name in (entry["name"], *entry["aliases"]):
            found[_plain(name)] = entry
    return found


def _plain(name: str) -> str:
    spaced = re.sub(r"[-_]", " ", name.lower())
    words = re.sub(
        r"\b(nvidia|geforce|tesla|quadro|graphics|gpu|generation|workstation|server|edition|sxm\d?|hbm\d?e?|blackwell(?=\s+(workstation|server|max)))\b",
        " ",
        spaced,
    )
    return re.sub(r"[^a-z0-9.+]", "", words)


def card(name: str) -> Card:
    """Return the card called `name`, as people or nvidia-smi write it; '24GB' means an unnamed card of that nominal size."""
    if not name.strip():
        raise wrong(
            "gpu", "no card is named; give one such as 'RTX 4090', or a size such as '24GB'"
        )
    size = _SIZE_ONLY.match(name.strip())
    if size:
        nominal = float(size[1])
        if not 1 <= nominal <= 2048:
            raise wrong(
                "gpu",
                f"{name.strip()} is no size of a card; give 1GB to 2048GB, or a name such as 'RTX 4090'",
            )
        return Card(
            f"{size[1]} {size[2]} card",
            nominal if size[2].lower() == "gib" else nominal * _USABLE_SHARE,
        )
    index, plain = _gpu_index(), _plain(name)
    entry = (
        index.get(plain)
        or index.get(re.sub(r"\d+(gb|gib)$", "", plain))
        or index.get(plain + "gb")
        or _by_size(index, plain)
    )
    if entry is None:
        names = [
            alias for known in table("gpus")["gpus"] for alias in (known["name"], *known["aliases"])
        ]
        raise wrong(
            "gpu",
            f"{name.strip()[:60]!r} is not in the table; the nearest known card is {nearest(_plain(name), names)!r}, and a size such as '24GB' works too",
        )
    return from_entry(entry)


def _by_size(index: Mapping[str, dict[str, Any]], plain: str) -> dict[str, Any] | None:
    for size in ("16gb", "24gb", "32gb", "40gb", "48gb", "80gb", "96gb"):
        if plain + size in index:
            return index[plain + size]
    return None


def from_driver(name: str, total_bytes: int) -> Card | None:
    """Return the card that the driver calls `name`.

    total_bytes  as the driver says, more than torch sees; 0 where the card shares the memory of the host: its name decides

    A name that is not in the table is a card of its size; without a size it is None.
    """
    try:
        found = card(name)
    except ConsiliumError:
        found = None
    size = total_bytes / GIB
    if size and (found is None or not 0.9 < found.total_gib / size < 1.05):
        return Card(name, size * constant("driver_to_torch"))
    return found


def from_entry(entry: Mapping[str, Any]) -> Card:
    """Return a row of the table as a Card."""
    return Card(
        entry["name"],
        entry["total_gib"],
        entry["bandwidth_gb_s"],
        entry["bf16_tflops"],
        entry["fp8_tflops"],
        entry["fp4_tflops"],
        entry["watts"],
        entry["compute_capability"],
        entry["link_gb_s"],
        entry["link"],
        bool(entry.get("unified", False)),
        entry["fp16_accumulate_tflops"],
    )


def cards(text: str) -> tuple[Card, ...]:
    """Return the cards of a list such as '2x RTX 3090, 1x RTX 4090'."""
    found: list[Card] = []
    for part in (piece.strip() for piece in re.split(r"[,;+]", text)):
        if not part:
            continue
        counted = _COUNTED.match(part)
        number = int(counted[1]) if counted else 1
        if not 1 <= number <= MAX_CARDS:
            raise wrong("gpus", f"{number} cards cannot be planned; give 1 to {MAX_CARDS}")
        found += [card(counted[2] if counted else part)] * number
    if not found:
        raise wrong("gpus", "no card is named; give one such as 'RTX 4090' or '2x RTX 3090'")
    if len(found) > MAX_CARDS:
        raise wrong("gpus", f"{len(found)} cards cannot be planned; give at most {MAX_CARDS}")
    return tuple(found)


def cpu(name: str) -> Cpu:
    """Return the processor called `name`, or one described as '12x4800' (channels x MT/s) or '2x12x4800' (sockets first)."""
    spec = re.match(
        r"^(?:(\d)\s*x\s*)?(\d{1,2})\s*(?:ch|channels?)?\s*[x@]\s*(?:ddr\d-?)?(\d{4,5})$",
        name.strip().lower(),
    )
    if spec:
        return Cpu(
            name.strip(),
            int(spec[2]),
            int(spec[3]),
            32,
            2.8,
            amx=False,
            avx512=True,
            watts=250,
            sockets=int(spec[1] or 1),
        )
    index = {
        _plain(alias): entry
        for entry in table("cpus")["cpus"]
        for alias in (entry["name"], *entry["aliases"])
    }
    entry = index.get(_plain(name))
    if entry is None:
        known = [alias for row in table("cpus")["cpus"] for alias in (row["name"], *row["aliases"])]
        raise wrong(
            "cpu",
            f"{name.strip()[:60]!r} is not in the table; the nearest known processor is {nearest(name, known)!r}, and '12x4800' (channels x MT/s) works too",
        )
    return Cpu(
        entry["name"],
        entry["channels"],
        entry["mt_s"],
        entry["cores"],
        entry["ghz"],
        entry["amx"],
        entry["avx512"],
        entry["watts"],
        entry["sockets"],
    )
