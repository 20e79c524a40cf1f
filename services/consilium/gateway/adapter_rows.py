"""The table `adapters` as the gateway reads it: what a name means, and which executors may hold it.

Pure. Knows the shape of the rows that lora_router streams. Does not know who asks, nor where an adapter is now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

TABLE: Final = "adapters"
DAMAGED: Final = "damaged"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an adapter.

    reference  what engines are told
    fits       executor -> why it does not fit there; "" = it fits. Executors that were not heard yet are missing.
    answers    whether it may answer who names it: it was tried and is sound, or its owner insists
    """

    sha: str
    reference: str
    proof: str = "unproven"
    fits: Mapping[str, str] = field(default_factory=dict)
    answers: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """One adapter.

    current   hash of the version that answers, or ""
    mixed     reference of the sum with its core, where that is made
    """

    name: str
    current: str
    versions: tuple[Version, ...]
    with_core: str = ""
    core_weight: float = 1.0
    weight: float = 1.0
    isolated: bool = False
    domain: str = ""
    examples: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    threshold: float | None = None

    def version(self, sha: str) -> Version | None:
        """Return the one version whose hash begins so, or the current one for ""; None where there is none, or more than one."""
        wanted = sha or self.current
        found = [each for each in self.versions if wanted and each.sha.startswith(wanted)]
        return found[0] if len(found) == 1 else None

    def damaged(self, sha: str) -> Version | None:
        """Return the version whose hash begins so, or for "" the newest one, if its files are damaged."""
        found = [each for each in self.versions if each.sha.startswith(sha)][:1]
        return next((each for each in found if each.proof == DAMAGED), None)


@dataclass(frozen=True, slots=True)
class Sum:
    """A sum that is stored: its parts are told as (reference, weight), in order of references; `alike` are other parts that come to the same content."""

    reference: str
    parts: tuple[tuple[str, float], ...]
    fits: Mapping[str, str] = field(default_factory=dict)
    alike: tuple[tuple[tuple[str, float], ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """What the table says as a whole.

    heard      whether it was ever heard: without a word of the room an adapter is not unknown, it cannot be told
    read_from  key -> the row as it came, and what was read from it
    with_triggers  the adapters that a text may call: asked for each turn that says `auto`
    """

    rows: Mapping[str, Row] = field(default_factory=lambda: MappingProxyType({}))
    sums: Mapping[tuple[tuple[str, float], ...], Sum] = field(
        default_factory=lambda: MappingProxyType({})
    )
    heard: bool = False
    read_from: Mapping[str, tuple[object, Row | Sum]] = field(default_factory=dict, repr=False)
    with_triggers: tuple[Row, ...] = ()

    @property
    def with_meaning(self) -> tuple[Row, ...]:
        """Return the adapters that a text may find by its meaning."""
        return tuple(
            row for row in self.rows.values() if row.current and (row.domain or row.examples)
        )


def read(
    rows: Mapping[str, Mapping[str, Any]], *, heard: bool, before: Known | None = None
) -> Known:
    """Return what the rows of the table say. A row that cannot be read is left out: an older router and a newer gateway may meet.

    before  what was known until now. Rows that are the same are not read again: this is done while answers wait. And a router that starts anew tells what is registered
            before it has heard its engines again: until then an engine fits what it fitted.
    """
    before = Known() if before is None else before
    fitted: Mapping[str, Mapping[str, str]] | None = None
    known: dict[str, Row] = {}
    sums: dict[tuple[tuple[str, float], ...], Sum] = {}
    read_from: dict[str, tuple[object, Row | Sum]] = {}
    for key, raw in rows.items():
        was = before.read_from.get(key)
        if was is not None and was[0] is raw:
            one = was[1]
        else:
            fitted = _fitted(before) if fitted is None else fitted
            try:
                one = _sum(raw, fitted) if raw.get("kind") == "sum" else _row(key, raw, fitted)
            except (KeyError, TypeError, ValueError):
                continue
        read_from[key] = raw, one
        if isinstance(one, Sum):
            sums |= dict.fromkeys((one.parts, *one.alike), one)
        else:
            known[key] = one
    called = tuple(row for row in known.values() if row.current and row.triggers)
    return Known(MappingProxyType(known), MappingProxyType(sums), heard, read_from, called)


def _sum(raw: Mapping[str, Any], fitted: Mapping[str, Mapping[str, str]]) -> Sum:
    alike = tuple(map(_parts, raw.get("alike") or ()))
    return Sum(str(raw["reference"]), _parts(raw["parts"]), _fits(raw, fitted), alike)


def _parts(told: Sequence[Sequence[Any]]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((str(ref), float(weight)) for ref, weight in told))


def _row(name: str, raw: Mapping[str, Any], fitted: Mapping[str, Mapping[str, str]]) -> Row:
    threshold, current = raw.get("threshold"), str(raw["current"])
    return Row(
        name,
        current,
        tuple(
            Version(
                str(v["sha"]),
                str(v["reference"]),
                str(v.get("proof", "unproven")),
                _fits(v, fitted),
                bool(v.get("answers", v.get("proof") == "ok" or v["sha"] == current)),
            )
            for v in raw["versions"]
        ),
        with_core=str(raw.get("with_core") or ""),
        core_weight=float(raw.get("core_weight", 1.0)),
        weight=float(raw.get("weight", 1.0)),
        isolated=bool(raw.get("isolated")),
        domain=str(raw.get("domain") or ""),
        examples=tuple(str(text) for text in raw.get("examples") or ()),
        triggers=tuple(str(text) for text in raw.get("triggers") or ()),
        threshold=None if threshold is None else float(threshold),
    )


def _fits(raw: Mapping[str, Any], fitted: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    told = {str(name): str(why) for name, why in (raw.get("fits") or {}).items()}
    return {**fitted.get(str(raw["reference"]), {}), **told}


def _fitted(before: Known) -> dict[str, Mapping[str, str]]:
    """Return reference -> on which executors it fitted, of all that was known."""
    found = {each.reference: each.fits for row in before.rows.values() for each in row.versions}
    return found | {each.reference: each.fits for each in before.sums.values()}
