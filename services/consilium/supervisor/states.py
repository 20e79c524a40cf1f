"""The parts of a cluster and their states, as data: who waits for whom, what follows a crash, when to try again.

Knows names, moves and times. Does not know processes, sockets or Ray. The clock is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class PartState(StrEnum):
    """How a part is doing."""

    WAITING = "waiting"
    STARTING = "starting"
    UP = "up"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


_S = PartState
MOVES: Final[dict[PartState, frozenset[PartState]]] = {
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.UP, _S.CRASHED, _S.FAILED, _S.WAITING, _S.STOPPING}),
    _S.UP: frozenset({_S.CRASHED, _S.WAITING, _S.STARTING, _S.STOPPING}),
    _S.CRASHED: frozenset({_S.STARTING, _S.WAITING, _S.FAILED, _S.STOPPED, _S.STOPPING}),
    _S.FAILED: frozenset({_S.STOPPING, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED}),
    _S.STOPPED: frozenset(),
}

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_LIMIT_S: Final = 30.0
CALM_S: Final = 60.0
"""A part that was up for this long starts its backoff from the beginning."""
FIRST_TRIES: Final = 3
"""Attempts while the cluster starts for the first time; afterwards a part is tried for ever."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part.

    needs   parts that must be up before this one is started
    lives   True for a process that stays; False for a task that ends with 0 and leaves its work elsewhere
    within  parts in which the work of a task lives: when one of them is lost, the task is done again
    """

    name: str
    needs: tuple[str, ...] = ()
    lives: bool = True
    within: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Live:
    """One part now. Times are seconds of the caller's clock."""

    part: Part
    state: PartState = PartState.WAITING
    since: float = 0.0
    failures: int = 0
    starts: int = 0
    again_at: float = 0.0
    detail: str = ""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)


class MoveRefusedError(Exception):
    """A part was moved to a state that does not follow from its own: a fault in the supervisor."""


def backoff_s(failures: int) -> float:
    """Return seconds to wait before the next attempt: 0.5, 1, 2 ... 30."""
    return min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** max(0, failures - 1))


class Board:
    """All parts of one cluster. Every method takes the time and returns nothing or plain values; nothing is started here."""

    def __init__(self, parts: Iterable[Part], now: float) -> None:
        self._live = {part.name: Live(part, since=now) for part in parts}
        for live in self._live.values():
            unknown = [
                need for need in (*live.part.needs, *live.part.within) if need not in self._live
            ]
            if unknown:
                msg = f"{live.part.name} needs {unknown}, which are no parts"
                raise ValueError(msg)
        self.was_up = False

    def __getitem__(self, name: str) -> Live:
        return self._live[name]

    def all(self) -> tuple[Live, ...]:
        """Return every part, in the order in which they were declared."""
        return tuple(self._live.values())

    def due(self, now: float) -> tuple[str, ...]:
        """Return the parts that should be started now: what they need is up, and their backoff is over."""
        return tuple(
            name
            for name, live in self._live.items()
            if (
                live.state is PartState.WAITING
                or (live.state is PartState.CRASHED and now >= live.again_at)
            )
            and all(self._live[need].state is PartState.UP for need in live.part.needs)
        )

    def started(self, name: str, now: float) -> None:
        """Note that a part was started."""
        self._move(name, PartState.STARTING, now, starts=self._live[name].starts + 1, detail="")

    def ready(self, name: str, now: float) -> None:
        """Note that a part answers. When all are up, the first start is over."""
        self._move(name, PartState.UP, now, detail="")
        if all(live.state is PartState.UP for live in self._live.values()):
            self.was_up = True

    def lost(self, name: str, now: float, detail: str, *, fatal: bool = False) -> None:
        """Note that a part ended or stopped answering. What lived within it waits again; so does what was starting on it.

        fatal  True if another attempt would end the same way (a mistake in the configuration)
        """
        live = self._live[name]
        failures = (
            1 if live.state is PartState.UP and now - live.since >= CALM_S else live.failures + 1
        )
        gives_up = fatal or (not self.was_up and failures >= FIRST_TRIES)
        self._move(
            name,
            PartState.FAILED
            if gives_up and live.state is PartState.STARTING
            else PartState.CRASHED,
            now,
            failures=failures,
            again_at=now + backoff_s(failures),
            detail=detail,
        )
        for other in self._live.values():
            if name in other.part.within and other.state in {PartState.UP, PartState.STARTING}:
                self._move(other.part.name, PartState.WAITING, now, detail=f"waits for {name}")

    def unready(self, name: str, now: float, detail: str) -> None:
        """Note that a part still runs but has stopped answering; it is up again when it answers."""
        if self._live[name].state is not PartState.UP:
            msg = f"{name}: {self._live[name].state} cannot fall silent"
            raise MoveRefusedError(msg)
        self._move(name, PartState.STARTING, now, detail=detail)

    def note(self, name: str, detail: str) -> None:
        """Set the one line for people, such as progress."""
        self._live[name] = replace(self._live[name], detail=detail)

    def stopping(self, now: float) -> None:
        """Note that the cluster is being stopped."""
        for name, live in self._live.items():
            if live.state is PartState.WAITING:
                self._move(name, PartState.STOPPED, now)
            elif live.state not in {PartState.STOPPED, PartState.STOPPING}:
                self._move(name, PartState.STOPPING, now)

    def stopped(self, name: str, now: float) -> None:
        """Note that a part has ended as it was told."""
        if self._live[name].state is not PartState.STOPPED:
            self._move(name, PartState.STOPPED, now)

    def failed(self) -> Live | None:
        """Return the part that was given up, or None."""
        return next((live for live in self._live.values() if live.state is PartState.FAILED), None)

    def is_up(self) -> bool:
        """Return True if every part is up."""
        return all(live.state is PartState.UP for live in self._live.values())

    def next_at(self) -> float | None:
        """Return the nearest time at which a crashed part may be tried again."""
        return min(
            (live.again_at for live in self._live.values() if live.state is PartState.CRASHED),
            default=None,
        )

    def _move(self, name: str, to: PartState, now: float, **changes: object) -> None:
        live = self._live[name]
        if to not in MOVES[live.state]:
            msg = f"{name}: {live.state} -> {to}"
            raise MoveRefusedError(msg)
        self._live[name] = replace(live, state=to, since=now, **changes)  # type: ignore[arg-type]
