"""What must be done so that the registry says what the configuration says.

The configuration owns what it names: files, settings, and whether the name is there. What the CLI has changed of such a name (where it is kept) holds until the
configuration says something new. Knows values. Does not know files: it is told how they look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from consilium.lora_router.holdings import Holdings
from consilium.lora_router.ports import Named, Registered


@dataclass(frozen=True, slots=True)
class Entry:
    """One adapter of the configuration.

    path   from the root, or the name of a repository
    text   the entry as it stands there, to tell whether it has changed
    """

    settings: Registered
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order.

    remove  names that the configuration held and names no more; those that lean on a core before the core
    change  entries whose files are as they were, and whose settings are not
    read    entries whose files are new, or another folder's
    """

    remove: tuple[str, ...]
    change: tuple[Entry, ...]
    read: tuple[Entry, ...]


def plan(entries: Mapping[str, Entry], looks: Mapping[str, str], holdings: Holdings) -> Plan:
    """Return what is to be done.

    looks  name -> how its files look now (store.look_of); a name that is not in it could not be looked at, and keeps what it has
    """
    read, change = [], []
    for name, entry in entries.items():
        row = holdings.names.get(name)
        if name in looks and (row is None or not _has(row, looks[name], holdings)):
            read.append(entry)
        elif row is not None and (row.entry != entry.text or not row.registered.from_config):
            change.append(entry)
    gone = [
        row.registered
        for name, row in holdings.names.items()
        if row.registered.from_config and name not in entries
    ]
    gone.sort(key=lambda said: (not said.with_core, said.name))
    return Plan(tuple(said.name for said in gone), tuple(change), tuple(read))


def settings_of(entry: Entry, row: Named | None) -> Registered:
    """Return what is kept of an entry: what it says, but for a placement that the CLI has changed since the entry was written."""
    if row is not None and row.entry == entry.text:
        return replace(entry.settings, placement=row.registered.placement)
    return entry.settings


def _has(row: Named, look: str, holdings: Holdings) -> bool:
    """Return whether the files that look so are stored under the name."""
    return row.origin == look and bool(holdings.of(row.registered.name))
