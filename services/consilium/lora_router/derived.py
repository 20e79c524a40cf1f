"""What follows from the adapters that are held, made anew only where it may have changed: there may be thousands of them, and one changes.

    changes = Changes(library)         changes.since(holdings) -> what may have changed
    targets = Derived(changes, make)   make(version) -> value or None
    targets.now(basis)                 reference -> value; all anew where the basis is another one

Holdings are values, so whatever is the same object as before has not changed. Knows names, versions and sums. Does not know what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from consilium.lora_router.holdings import Holdings, reference_of
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Held, StoredVersion

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Touched:
    """What may have changed.

    names     names whose registration, versions or visibility differ; without that of sums
    versions  reference -> version of these names, and of sums that differ or have a part of these names; None = it is gone, or being removed
    """

    names: frozenset[str]
    versions: Mapping[str, StoredVersion | None]


def touched(old: Holdings, new: Holdings) -> Touched:
    """Return what may be different now."""
    if old is new:
        return Touched(frozenset(), {})
    names = {text.partition(":")[0] for text in old.hidden ^ new.hidden}
    names |= _differ(old.names, new.names) | _differ(old.versions, new.versions)
    names.discard(MIX)
    held = [each for name in names for book in (old, new) for each in book.of(name).values()]
    held += [each for each in _sums(old, new) if _leans_on(each, names)]
    held += _differing_sums(old, new)
    hidden = new.hidden
    found: dict[str, StoredVersion | None] = {}
    for each in held:
        key, version = reference_of(each), each.version
        now = new.of(version.name).get(version.sha)
        found[key] = None if now is None or key in hidden else now.version
    return Touched(frozenset(names), found)


class Changes:
    """What has changed in a library. Several ask after each change, and the answer is found once."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._last: tuple[Holdings, Holdings, Touched] | None = None

    def since(self, old: Holdings) -> Touched:
        """Return what may be different now from what was held then."""
        new = self.library.holdings
        if self._last is None or self._last[0] is not old or self._last[1] is not new:
            self._last = (old, new, touched(old, new))
        return self._last[2]


class Derived(Generic[T]):
    """One value for each version, by reference; None = none.

    make  version -> value; may look at the names of the version and of its parts, and at the basis
    """

    def __init__(self, changes: Changes, make: Callable[[StoredVersion], T | None]) -> None:
        self._changes, self._make = changes, make
        self._basis: object = None
        self._seen: Holdings | None = None
        self._values: dict[str, T] = {}

    def now(self, basis: object) -> Mapping[str, T]:
        """Return the values as things are now. Not to be kept: it is changed at the next call.

        basis  what the values are made of besides what is held
        """
        library = self._changes.library
        holdings = library.holdings
        if self._seen is None or basis != self._basis:
            self._values = {}
            self._put((_named(each), each) for each in library.versions())
        else:
            self._put(self._changes.since(self._seen).versions.items())
        self._seen, self._basis = holdings, basis
        return self._values

    def _put(self, versions: Iterable[tuple[str, StoredVersion | None]]) -> None:
        for key, version in versions:
            value = None if version is None else self._make(version)
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value


def _named(version: StoredVersion) -> str:
    return reference(version.name, version.sha)


def _differ(old: Mapping[str, object], new: Mapping[str, object]) -> set[str]:
    found = {key for key, value in new.items() if old.get(key) is not value}
    return found | (old.keys() - new.keys())


def _sums(old: Holdings, new: Holdings) -> Iterable[Held]:
    return (each for book in (old, new) for each in book.of(MIX).values())


def _differing_sums(old: Holdings, new: Holdings) -> list[Held]:
    """Return the sums that came, went, changed, or are being removed in one of the two."""
    before, after = old.of(MIX), new.of(MIX)
    shas = _differ(before, after)
    hiding = {text for text in old.hidden ^ new.hidden if text.startswith(f"{MIX}:")}
    shas |= {sha for sha, each in after.items() if hiding and reference_of(each) in hiding}
    return [book[sha] for sha in shas for book in (before, after) if sha in book]


def _leans_on(held: Held, names: set[str]) -> bool:
    return any(part.partition(":")[0] in names for part, _ in held.version.parts)
