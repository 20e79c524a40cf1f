"""Checks of a machine and a configuration as data: what is looked at, what it means, and the way out.

    Fact   something that is read once, with a limit of its own: a driver that hangs costs its limit and is told, and holds up nobody
    Row    a check: when it applies, what it says of the facts, the sentence, the way out
    gather reads the facts of all rows side by side; judge asks every row

A room keeps its checks in its own doctor.py, as ROWS. Knows facts and rows. Does not know what is checked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from pydantic import BaseModel

from consilium.kernel import masking
from consilium.kernel.errors import ConsiliumError

T = TypeVar("T")
V = TypeVar("V", bound=BaseModel)


class Level(StrEnum):
    """How a finding is meant: a failure stops the cluster or a part of it, a warning may, a note is only told."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined.

    tree     the whole configuration, or None where it is not valid
    state    the state folder, there or not
    refusal  why the configuration is not valid
    """

    tree: BaseModel | None
    state: Path
    refusal: str = ""

    def view(self, root: type[V]) -> V | None:
        """Return the part of the tree that a room reads, or None where the configuration is not valid."""
        if self.tree is None:
            return None
        return root.model_validate(masking.plain(self.tree, masked=False))


@dataclass(frozen=True, eq=False, slots=True)
class Fact(Generic[T]):
    """Something to read, once.

    name     for programs: unread_<name> is the finding where it could not be read
    title    for people, as the beginning of a sentence
    read     reads it; runs in a thread
    limit_s  seconds that it may take
    """

    name: str
    title: str
    read: Callable[[Subject], T]
    limit_s: float = 2.0


class Facts:
    """What was read. A fact that could not be read has a reason instead."""

    def __init__(
        self,
        subject: Subject,
        known: Mapping[Fact[Any], object],
        unread: Mapping[Fact[Any], str] | None = None,
    ) -> None:
        self.subject = subject
        self._known = dict(known)
        self.unread: dict[Fact[Any], str] = dict(unread or {})

    def __getitem__(self, fact: Fact[T]) -> T:
        """Return what was read. Raises KeyError."""
        found: T = self._known[fact]  # type: ignore[assignment]  # it was read by this fact
        return found

    def has(self, fact: Fact[Any]) -> bool:
        """Return whether it was read."""
        return fact in self._known


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says of the facts.

    values  for the sentence of the row
    """

    level: Level
    values: Mapping[str, object] = field(default_factory=dict)


def ok(**values: object) -> Verdict:
    """Return that all is well."""
    return Verdict(Level.OK, values)


def note(**values: object) -> Verdict:
    """Return that something is worth knowing."""
    return Verdict(Level.NOTE, values)


def warning(**values: object) -> Verdict:
    """Return that something may go wrong."""
    return Verdict(Level.WARNING, values)


def failure(**values: object) -> Verdict:
    """Return that something is wrong."""
    return Verdict(Level.FAILURE, values)


def _always(_facts: Facts) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Row:
    """One check.

    id        for programs; never changes
    title     what is looked at
    needs     facts without which nothing can be said
    test      the facts -> what they mean
    sentence  what is told where not all is well, with the verdict's values
    way_out   what to do about it, with the same values
    fine      what is told where all is well; empty = only the title
    when      whether it applies at all
    """

    id: str
    title: str
    needs: tuple[Fact[Any], ...]
    test: Callable[[Facts], Verdict]
    sentence: str
    way_out: str
    fine: str = ""
    when: Callable[[Facts], bool] = _always


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found."""

    id: str
    title: str
    level: Level
    sentence: str
    way_out: str = ""
    values: Mapping[str, object] = field(default_factory=dict)


def gather(facts: Iterable[Fact[Any]], subject: Subject) -> Facts:
    """Read all facts side by side. Takes as long as the slowest, and no fact longer than its limit."""
    begun = time.monotonic()
    readers = [(fact, _Reader(fact, subject)) for fact in dict.fromkeys(facts)]
    known: dict[Fact[Any], object] = {}
    unread: dict[Fact[Any], str] = {}
    for fact, reader in readers:
        reader.join(max(0.0, begun + fact.limit_s - time.monotonic()))
        if reader.is_alive():
            unread[fact] = f"it did not answer within {fact.limit_s:g} s"
        elif reader.failure:
            unread[fact] = reader.failure
        else:
            known[fact] = reader.found
    return Facts(subject, known, unread)


class _Reader(threading.Thread):
    """Reads one fact. One that hangs is left behind and ends with the process."""

    def __init__(self, fact: Fact[Any], subject: Subject) -> None:
        super().__init__(name=f"doctor-{fact.name}", daemon=True)
        self._fact, self._subject = fact, subject
        self.found: object = None
        self.failure = ""
        self.start()

    def run(self) -> None:
        """Read it. What it raises is why it is not known."""
        try:
            self.found = self._fact.read(self._subject)
        except ConsiliumError as error:
            self.failure = error.public()
        except Exception as error:
            self.failure = f"{type(error).__name__}: {error}"


def needed(rows: Sequence[Row]) -> tuple[Fact[Any], ...]:
    """Return the facts that rows need, each once."""
    return tuple(dict.fromkeys(fact for row in rows for fact in row.needs))


def judge(rows: Sequence[Row], facts: Facts) -> tuple[Finding, ...]:
    """Return what every row that applies finds, in their order, and at the end what could not be looked at."""
    found = [
        finding
        for row in rows
        if all(facts.has(fact) for fact in row.needs)
        for finding in _asked(row, facts)
    ]
    return (*found, *(_not_seen(fact, why) for fact, why in facts.unread.items()))


def _asked(row: Row, facts: Facts) -> tuple[Finding, ...]:
    try:
        if not row.when(facts):
            return ()
        verdict = row.test(facts)
        if verdict.level is Level.OK:
            sentence, way_out = row.fine.format(**verdict.values), ""
        else:
            sentence = row.sentence.format(**verdict.values)
            way_out = row.way_out.format(**verdict.values)
    except Exception as error:  # one check that is wrong hides no other
        sentence = f"this check itself failed ({type(error).__name__}: {error})"
        return (Finding(row.id, row.title, Level.WARNING, sentence, _REPORT),)
    return (Finding(row.id, row.title, verdict.level, sentence, way_out, verdict.values),)


def _not_seen(fact: Fact[Any], why: str) -> Finding:
    sentence = f"{fact.title} could not be looked at: {why}"
    return Finding(f"unread_{fact.name}", fact.title, Level.WARNING, sentence, _LOOK_AGAIN)


_REPORT: Final = "This is an error of Consilium; please report it with the sentence above."
_LOOK_AGAIN: Final = "Call it again; if it stays so, what is named here hangs or is damaged."
