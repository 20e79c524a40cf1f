"""Configuration that changes while processes run: what differs, what may be taken over, and who follows the file.

Which keys are taken over without a restart stands beside the fields (kernel/config.py: LIVE, restarts). Knows trees, files and marks. Does not know sections.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from consilium.kernel import logs, masking
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.private_file import held_alone, write_private

LOOK_S: Final = 0.5
"""Seconds between two looks at the file."""
RETRY_S: Final = 5.0
"""A file that was refused is read again after so many seconds, changed or not: what it names may have come meanwhile."""
_DIGITS: Final = 12

T = TypeVar("T", bound=BaseModel)
V = TypeVar("V")
Kind = Literal["added", "removed", "changed"]
Signature = tuple[tuple[int, int, int] | None, ...]

_log = logs.get("config")


@dataclass(frozen=True, slots=True)
class Change:
    """One key that differs. Values are plain and masked; None where the key is not there.

    place     the key in parts, such as ("roles", "poet", "frame")
    live      running processes take it over
    restarts  otherwise: the part that has to start again
    """

    place: tuple[str, ...]
    kind: Kind
    old: Any
    new: Any
    live: bool
    restarts: str

    @property
    def key(self) -> str:
        """Return the dotted key."""
        return ".".join(self.place)


@dataclass(frozen=True, slots=True)
class _Mark:
    """What stands beside the nearest field that says anything."""

    live: bool
    restarts: str


def difference(old: T, new: T) -> tuple[Change, ...]:
    """Return what differs between two trees of one model, in the order of its fields. An entry that only one of them has is one change."""
    return tuple(
        change
        for name, field in type(new).model_fields.items()
        for change in _between(
            (name,), getattr(old, name), getattr(new, name), _mark(field, _Mark(False, name))
        )
    )


def live_sections(root: type[BaseModel]) -> tuple[str, ...]:
    """Return the sections of a tree that running processes take over."""
    unmarked = _Mark(live=False, restarts="")
    return tuple(name for name, field in root.model_fields.items() if _mark(field, unmarked).live)


def versions(tree: BaseModel) -> dict[str, str]:
    """Return live section -> digest of its values. Processes that read different parts of a tree agree on the sections they share."""
    return {
        name: _digest(masking.plain(getattr(tree, name), masked=False))
        for name in live_sections(type(tree))
    }


def version_of(sections: Mapping[str, str]) -> str:
    """Return one digest for those of the sections."""
    return _digest(dict(sorted(sections.items())))


def exchange(
    path: Path, sections: Mapping[str, Any], allowed: Callable[[dict[str, Any]], None]
) -> None:
    """Exchange sections of a resolved tree in its file, each whole; everything else in it stays as `up` wrote it.

    allowed  looks at the tree as it will be, while nobody else may write it, and raises where it must not become so
    """
    with held_alone(path):
        tree = json.loads(path.read_text(encoding="utf-8")) | dict(sections)
        allowed(tree)
        write_private(path, json.dumps(tree, indent=1) + "\n")


class Swapped(Mapping[str, V]):
    """A mapping whose content is exchanged whole: whoever reads it twice without awaiting in between sees the same."""

    __slots__ = ("_now",)

    def __init__(self, now: Mapping[str, V] | None = None) -> None:
        self._now: Mapping[str, V] = dict(now or {})

    def swap(self, new: Mapping[str, V]) -> None:
        """Hold other content from now on."""
        self._now = dict(new)

    def __getitem__(self, key: str) -> V:
        return self._now[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def __contains__(self, key: object) -> bool:
        return key in self._now


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What was read: the view, and further files that it was made from."""

    view: T
    files: tuple[Path, ...] = ()


class Live(Generic[T]):
    """Follows one configuration file. A file that cannot be used changes nothing: the last good one is kept, and `refusal` says why.

    path   the file; links are followed, so a ConfigMap that is exchanged is seen
    read   the file -> what it says; runs in a thread; raises ConsiliumError
    take   called with each view whose live sections differ, before it is held; what it raises refuses the view
    clock  paces the looks

    `pending` are the keys that have changed since the start and need a restart.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[Path], Reading[T]],
        *,
        take: Callable[[T], None],
        clock: Clock,
    ) -> None:
        """Read the file and take it over. Raises ConsiliumError(config_invalid): a process does not start with a file that it cannot use."""
        self._path, self._read, self._take, self._clock = path, read, take, clock
        self._looking = asyncio.Lock()
        self._files: tuple[Path, ...] = ()
        before = self._signature()
        first = read(path)
        self._files = first.files
        self._seen: Signature | None = None if self._files else before
        take(first.view)
        self._started = self.view = first.view
        self.versions = versions(first.view)
        self.pending: tuple[str, ...] = ()
        self.refusal = ""
        self._refused_at = 0.0

    @property
    def path(self) -> Path:
        """Return the file that is followed."""
        return self._path

    async def run(self) -> None:
        """Look for as long as this task lives. No failure ends it."""
        while True:
            await self._clock.sleep(LOOK_S)
            try:
                await self.look()
            except Exception:
                _log.exception("config_look_failed", path=str(self._path))
                await self._clock.sleep(RETRY_S)

    async def look(self) -> bool:
        """Look once. Returns whether something was taken over.

        One look at a time: a second one waits, so what it reads is never older than what the first has read.
        What is read is at least as new as the signature that is kept for it: a file that changes meanwhile is read again.
        """
        async with self._looking:
            return await self._look()

    async def _look(self) -> bool:
        now = self._signature()
        again = bool(self.refusal) and self._clock.monotonic() - self._refused_at >= RETRY_S
        if now == self._seen and not again:
            return False
        files = self._files
        self._seen = None  # whatever fails on the way: the next look reads again
        try:
            reading = await asyncio.to_thread(self._read, self._path)
            self._files = reading.files
            is_taken = self._consider(reading)
        except ConsiliumError as error:
            self._refuse(error)
            is_taken = False
        if self._files == files:  # `now` says nothing about files that were not looked at before
            self._seen = now
        return is_taken

    def _consider(self, reading: Reading[T]) -> bool:
        found = versions(reading.view)
        is_new = found != self.versions
        if is_new:
            self._take(reading.view)
            self.view, self.versions = reading.view, found
        if is_new or self.refusal:
            _log.info("config_taken", version=version_of(found), path=str(self._path))
        self.refusal = ""
        self._note_pending(reading.view)
        return is_new

    def _note_pending(self, view: T) -> None:
        pending = tuple(change.key for change in difference(self._started, view) if not change.live)
        if pending != self.pending and pending:
            _log.warning("config_needs_restart", keys=" ".join(pending), path=str(self._path))
        self.pending = pending

    def _refuse(self, error: ConsiliumError) -> None:
        self._refused_at = self._clock.monotonic()
        if error.public() != self.refusal:
            _log.warning("config_refused", reason=error.public(), path=str(self._path))
        self.refusal = error.public()

    def _signature(self) -> Signature:
        """Return what tells one state of the files from another. Looking costs microseconds."""
        return tuple(_stat(path) for path in (self._path, *self._files))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _mark(field: FieldInfo, above: _Mark) -> _Mark:
    said = field.json_schema_extra
    if not isinstance(said, Mapping):
        return above
    live = said.get("live", above.live)
    return _Mark(bool(live), str(said.get("restarts", above.restarts)))


def _between(
    place: tuple[str, ...], old: Any, new: Any, mark: _Mark, *, named: bool = False
) -> Iterable[Change]:
    """Yield what differs at a place. `named` where the owner chose the last part of its name, which may then say that the value is a secret."""
    if isinstance(new, BaseModel) and type(old) is type(new):
        for name, field in type(new).model_fields.items():
            yield from _between(
                (*place, name), getattr(old, name), getattr(new, name), _mark(field, mark)
            )
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            below = (*place, str(name))
            if name in old and name in new:
                yield from _between(below, old[name], new[name], mark, named=True)
            else:
                kind: Kind = "added" if name in new else "removed"
                yield _change(below, kind, old.get(name), new.get(name), mark, named=True)
    elif masking.plain(old, masked=False) != masking.plain(new, masked=False):
        yield _change(place, "changed", old, new, mark, named=named)


def _change(
    place: tuple[str, ...], kind: Kind, old: Any, new: Any, mark: _Mark, *, named: bool
) -> Change:
    def shown(value: Any) -> Any:
        if value is None or not named:
            return masking.plain(value, masked=True)
        return masking.plain({place[-1]: value}, masked=True)[place[-1]]

    restarts = "" if mark.live else mark.restarts
    return Change(place, kind, shown(old), shown(new), mark.live, restarts)


def _digest(plain: Any) -> str:
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
