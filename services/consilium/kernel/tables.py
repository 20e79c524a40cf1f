"""Tables that a room holds and the gateway follows: rows by key, versions, and what has changed since one of them.

    room      table = Table("adapters"); table.put("legal", {"sha": "3f9c"}); table.remove("legal"); table.replace(rows)
    gateway   held = held.after(update)          # kernel/table_client.py does it with what comes over the wire

A version only means something within its epoch, which is drawn when a table begins: a room that was restarted counts anew, and its followers get the whole table.
Knows rows and versions. Does not know gRPC, or what the rows mean.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

Row: TypeAlias = Mapping[str, Any]

REMEMBERED: Final = 10_000
"""Changes that a table remembers. A follower that missed more gets the whole table."""
PIECE_BYTES: Final = 1 << 20
"""Size above which an update is sent in several messages."""


@dataclass(frozen=True, slots=True)
class Update:
    """A whole table, a change of one, or, with no rows, the word that nothing has changed.

    version  of the table after this update
    whole    `changed` is the whole table
    changed  key -> row as a JSON object
    more     the next message goes on with this update
    """

    epoch: str
    version: int
    whole: bool = False
    changed: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    more: bool = False


class Table:
    """The room's side. Not for several threads."""

    def __init__(
        self, name: str, *, epoch: str | None = None, remembered: int = REMEMBERED
    ) -> None:
        self.name = name
        self.epoch = epoch or secrets.token_hex(8)
        self.version = 0
        self._rows: dict[str, str] = {}
        # Key -> version of its last change, oldest first.
        self._log: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        self._remembered = remembered
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all rows."""
        return frozenset(self._rows)

    def put(self, key: str, row: Row) -> None:
        """Add or replace one row. A row that is the same already is no change."""
        self.change({key: row})

    def remove(self, key: str) -> None:
        """Remove one row, if it is there."""
        self.change({}, (key,))

    def replace(self, rows: Mapping[str, Row]) -> None:
        """Make these all the rows."""
        self.change(rows, tuple(self._rows.keys() - rows.keys()))

    def change(self, rows: Mapping[str, Row], removed: tuple[str, ...] = ()) -> None:
        """Put some rows and remove others, as one version: no follower sees one without the other. Raises TypeError for what JSON cannot say."""
        written = {
            key: json.dumps(dict(row), ensure_ascii=False, separators=(",", ":"))
            for key, row in rows.items()
        }
        new = {key: text for key, text in written.items() if self._rows.get(key) != text}
        gone = [key for key in removed if key in self._rows and key not in written]
        if not new and not gone:
            return
        self.version += 1
        self._rows.update(new)
        for key in gone:
            del self._rows[key]
        for key in (*new, *gone):
            self._log[key] = self.version
            self._log.move_to_end(key)
        while len(self._log) > self._remembered:
            _, self._forgotten = self._log.popitem(last=False)
        self._changed.set()
        self._changed = asyncio.Event()

    def since(self, epoch: str, version: int) -> Update | None:
        """Return what has changed since a version that a follower holds: the whole table where that is not known any more, None where nothing has."""
        if epoch != self.epoch or not self._forgotten <= version <= self.version:
            return Update(self.epoch, self.version, whole=True, changed=dict(self._rows))
        if version == self.version:
            return None
        changed, removed = {}, []
        for key, at in reversed(self._log.items()):
            if at <= version:
                break
            if key in self._rows:
                changed[key] = self._rows[key]
            else:
                removed.append(key)
        return Update(self.epoch, self.version, changed=changed, removed=tuple(removed))

    def heartbeat(self, version: int) -> Update:
        """Return the word that nothing has changed for a follower that was sent this version."""
        return Update(self.epoch, version)

    def next_change(self) -> asyncio.Event:
        """Return the event that the next change sets. Take it before asking `since`, and none is missed."""
        return self._changed


def pieces(update: Update, size: int = PIECE_BYTES) -> Iterator[Update]:
    """Yield an update in messages of about `size` bytes. All but the last say that more follows."""
    part: dict[str, str] = {}
    weight = 0
    whole, removed = update.whole, update.removed
    for key, text in update.changed.items():
        if weight > size:
            yield Update(update.epoch, update.version, whole, part, removed, more=True)
            part, weight, whole, removed = {}, 0, False, ()
        part[key] = text
        weight += len(key) + len(text)
    yield Update(update.epoch, update.version, whole, part, removed)


class TornError(Exception):
    """An update does not go on from what is held: the follower must ask for the whole table."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a follower holds of a table: one value, swapped whole, so that rows and version belong together.

    epoch  empty = nothing came yet
    """

    epoch: str = ""
    version: int = 0
    rows: Mapping[str, Row] = field(default_factory=lambda: MappingProxyType({}))


class Assembly:
    """The follower's side: collects the messages of an update, and makes the next `Held` of the last."""

    def __init__(self) -> None:
        self._begun: Update | None = None
        self._rows: dict[str, Row] = {}

    def take(self, held: Held, update: Update) -> tuple[Held, frozenset[str]] | None:
        """Return what is held after an update and the keys of all rows that are new, different or gone; None while more of it must come.

        Raises TornError, and ValueError for a row that is no JSON object.
        """
        first = self._begun or update
        if (update.epoch, update.version) != (first.epoch, first.version):
            raise TornError
        self._begun = first
        for key, text in update.changed.items():
            self._rows[key] = _parsed(text)
        if update.more:
            return None
        rows, self._rows, self._begun = self._rows, {}, None
        if _is_torn(held, first, rows):
            raise TornError
        if first.whole:
            touched = held.rows.keys() - rows.keys() | {
                key for key, row in rows.items() if held.rows.get(key) != row
            }
        else:
            touched = {*rows, *first.removed}
            rows = dict(held.rows) | rows
            for key in first.removed:
                rows.pop(key, None)
        if not touched and (first.epoch, first.version) == (held.epoch, held.version):
            return held, frozenset()
        return Held(first.epoch, first.version, MappingProxyType(rows)), frozenset(touched)


def _is_torn(held: Held, first: Update, rows: Mapping[str, Row]) -> bool:
    """Say whether an update does not go on from what is held. One that changes nothing must name the very version."""
    if first.whole:
        return False
    if first.epoch != held.epoch or first.version < held.version:
        return True
    return not rows and not first.removed and first.version != held.version


def _parsed(text: str) -> Row:
    row = json.loads(text)
    if not isinstance(row, dict):
        msg = f"a row is a JSON object, not a {type(row).__name__}"
        raise ValueError(msg)  # noqa: TRY004  the text is wrong, not the type of an argument
    return MappingProxyType(row)
