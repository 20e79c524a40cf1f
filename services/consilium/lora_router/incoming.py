"""An adapter that comes in: what is said of it, and what the registry will keep.

Knows names and versions. Does not know files or who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.identity import MIX, NAME
from consilium.lora_router.ports import Described, Held, Named, Registered, StoredVersion

GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be stored.

    adhoc_bytes, adhoc_sums  of sums that only requests name, together
    """

    store_bytes: int = 50 * GIB
    adapter_bytes: int = 8 * GIB
    keep_versions: int = 3
    adhoc_bytes: int = 5 * GIB
    adhoc_sums: int = 256


@dataclass(frozen=True, slots=True)
class Incoming:
    """An adapter that comes in.

    source        folder with its two files
    settings      what was said of the name, or None = as it was
    described     what the checks saw in `source`; what is stored must be the same
    make_current  whether this version answers from now on; None = if no other one does
    is_ours       the folder lies on the store's disk and may be emptied, such as a finished upload
    origin,entry  see ports.Named
    demand        takes what the checks saw of the files in their place, and raises ConsiliumError where they are not to be stored; called in a thread
    """

    name: str
    source: Path
    settings: Registered | None = None
    described: Described | None = None
    make_current: bool | None = None
    is_ours: bool = False
    origin: str = ""
    entry: str = ""
    demand: Callable[[Described], None] | None = None


def check_name(name: str) -> None:
    """Raise ConsiliumError(invalid_request) if an adapter can't be called so."""
    if not NAME.fullmatch(name) or name == MIX:
        raise ConsiliumError(
            "invalid_request",
            field="name",
            reason=f"{name[:80]!r} cannot be an adapter's name: small letters, digits, '.', '_' and '-', at most 63, and not 'mix'",
        )


def check_may_be_set(incoming: Incoming, row: Named | None) -> None:
    """Raise ConsiliumError(conflict) where the configuration holds the name and somebody else asks."""
    by_config = incoming.settings is not None and incoming.settings.from_config
    if row is not None and row.registered.from_config and not by_config:
        name = incoming.name
        raise ConsiliumError(
            "conflict",
            reason=f"{name!r} stands in the configuration: change adapters.{name}.path there and run 'consilium apply', or choose another name.",
        )


def named_from(incoming: Incoming, row: Named | None, sha: str) -> Named:
    """Return what is kept of the name, now that its version `sha` is stored.

    row  what was kept before, or None
    """
    current = row.registered.current if row else ""
    if incoming.make_current or (incoming.make_current is None and not current):
        current = sha
    waiting = "" if current == sha else sha
    if incoming.settings is None and row is not None:
        registered = replace(row.registered, current=current)
        return replace(row, registered=registered, waiting=waiting)
    said = incoming.settings or Registered(incoming.name, "")
    said = replace(said, name=incoming.name, current=current)
    return Named(said, incoming.origin, incoming.entry, waiting)


def held_from(
    incoming: Incoming,
    described: Described,
    *,
    number: int,
    path: Path,
    file_bytes: Mapping[str, int],
    now: float,
    parts: tuple[tuple[str, float], ...] = (),
) -> Held:
    """Return a new version as the registry keeps it."""
    version = StoredVersion(
        name=incoming.name,
        sha=described.sha,
        lora_int_id=number,
        path=path,
        rank=described.rank,
        size_bytes=sum(file_bytes.values()),
        stored_at=now,
        is_3d=described.is_3d,
        base=described.base,
        remarks=tuple(str(remark) for remark in described.remarks),
        parts=parts,
    )
    return Held(version, file_bytes)
