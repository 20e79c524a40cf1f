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
    SILENT = "silent"
    CRASHED = "crashed"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


_S = PartState
MOVES: Final[dict[PartState, frozenset[PartState]]] = {
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.UP, _S.CRASHED, _S.FAILED, _S.WAITING, _S.STOPPING}),
    _S.UP: frozenset({_S.SILENT, _S.CRASHED, _S.WAITING, _S.STARTING, _S.STOPPING}),
    _S.SILENT: frozenset({_S.UP, _S.CRASHED, _S.WAITING, _S.STARTING, _S.STOPPING}),
    _S.CRASHED: frozenset({_S.STARTING, _S.WAITING, _S.FAILED, _S.STOPPED, _S.STOPPING}),
    _S.FAILED: frozenset({_S.WAITING, _S.STOPPING, _S.STOPPED}),
    _S.STOPPING: frozenset({_S.STOPPED}),
    _S.STOPPED: frozenset(),
}

RUNNING: Final = frozenset({_S.STARTING, _S.UP, _S.SILENT})
"""States in which a part is asked how it is."""

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_LIMIT_S: Final = 30.0
CALM_S: Final = 60.0
"""A part that was up for this long starts its backoff from the beginning."""
FIRST_TRIES: Final = 3
"""Attempts for a vital part while the cluster starts for the first time; afterwards it is tried for ever, as the others always are."""
PATIENCE_S: Final = 5.0
"""Seconds that the first start waits, once all vital parts are up, for the others that are still coming."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part.

    needs     parts that must be up before this one is started
    within    parts in which the work of a task lives: when one of them is lost, the task is done again
    lives     True for a process that stays; False for a task that ends with 0 and leaves its work elsewhere
    vital     whether the cluster is nothing without it: `up` fails when it does not come up
    stop_s    seconds that it gets to end what it is doing
    silent_s  seconds without any answer, be it that it is not ready yet, after which its process is ended and started again; None = never
    not_ready_s  seconds for which it may answer that it is not ready; then it is ended and started again; None = for ever
    claims    whether it takes work by itself, so that it stops taking before anything else is closed
    """

    name: str
    needs: tuple[str, ...] = ()
    lives: bool = True
    within: tuple[str, ...] = ()
    vital: bool = True
    stop_s: float = 5.0
    silent_s: float | None = None
    not_ready_s: float | None = None
    claims: bool = False


@dataclass(frozen=True, slots=True)
class Live:
    """One part now. Times are seconds of the caller's clock.

    down_at  since when it has not been up, whatever was tried meanwhile; 0.0 while it is up
    why      why it was lost last; empty once it is up
    """

    part: Part
    state: PartState = PartState.WAITING
    since: float = 0.0
    failures: int = 0
    starts: int = 0
    again_at: float = 0.0
    detail: str = ""
    down_at: float = 0.0
    why: str = ""

    @property
    def restarts(self) -> int:
        """How often it was started again."""
        return max(0, self.starts - 1)


class MoveRefusedError(Exception):
    """A part was moved to a state that does not follow from its own: a fault in the supervisor."""


def backoff_s(failures: int) -> float:
    """Return seconds to wait before the next attempt: 0.5, 1, 2 ... 30."""
    return min(BACKOFF_LIMIT_S, BACKOFF_FIRST_S * 2.0 ** max(0, failures - 1))


def ending_order(parts: Iterable[Part]) -> tuple[tuple[str, ...], ...]:
    """Return the parts in the groups in which they are ended, one group after the other; those of one group end side by side.

    A part ends before what it needs. Parts that claim work end first, with whatever stands on them. Raises ValueError if parts need each other in a ring.
    """
    left = {part.name: part for part in parts}
    stood_on = {name: {*part.needs, *part.within} for name, part in left.items()}

    def above(names: frozenset[str]) -> frozenset[str]:
        more = names | {name for name, needs in stood_on.items() if needs & names}
        return names if more == names else above(more)

    first = above(frozenset(part.name for part in left.values() if part.claims))
    groups: list[tuple[str, ...]] = []
    while left:
        free = [name for name in left if not any(name in stood_on[other] for other in left)]
        chosen = [name for name in free if name in first] or free
        if not chosen:
            msg = f"these parts need each other: {', '.join(sorted(left))}"
            raise ValueError(msg)
        groups.append(tuple(chosen))
        for name in chosen:
            del left[name]
    return tuple(groups)


class Board:
    """All parts of one cluster. Every method takes the time and returns nothing or plain values; nothing is started here."""

    def __init__(self, parts: Iterable[Part], now: float) -> None:
        self._live = {part.name: Live(part, since=now, down_at=now) for part in parts}
        for live in self._live.values():
            unknown = [
                need for need in (*live.part.needs, *live.part.within) if need not in self._live
            ]
            if unknown:
                msg = f"{live.part.name} needs {unknown}, which are no parts"
                raise ValueError(msg)
            weak = [need for need in live.part.needs if not self._live[need].part.vital]
            if live.part.vital and weak:
                msg = f"{live.part.name} is vital and needs {weak}, which may be down"
                raise ValueError(msg)
        self.was_up = False
        self._up_at = 0.0

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
            and not self.missing(name)
        )

    def started(self, name: str, now: float) -> None:
        """Note that a part was started."""
        self._move(name, PartState.STARTING, now, starts=self._live[name].starts + 1, detail="")

    def ready(self, name: str, now: float) -> None:
        """Note that a part answers. When all vital ones do, the cluster is up."""
        self._move(name, PartState.UP, now, detail="")
        if not self.was_up and self.is_up():
            self.was_up = True
            self._up_at = now

    def lost(self, name: str, now: float, detail: str, *, fatal: bool = False) -> None:
        """Note that a part ended or stopped answering. What lived within it waits again; so does what was starting on it.

        A vital part is given up if it fails three times during the first start. One that is not vital is tried for ever.

        fatal  True if another attempt would end the same way (a mistake in the configuration)
        """
        live = self._live[name]
        failures = (
            1 if live.state is PartState.UP and now - live.since >= CALM_S else live.failures + 1
        )
        tries_are_over = live.part.vital and not self.was_up and failures >= FIRST_TRIES
        gives_up = fatal or tries_are_over
        self._move(
            name,
            PartState.FAILED
            if gives_up and live.state is PartState.STARTING
            else PartState.CRASHED,
            now,
            failures=failures,
            again_at=now + backoff_s(failures),
            detail=detail,
            why=detail,
        )
        for other in self._live.values():
            if name in other.part.within and other.state in RUNNING:
                self._move(other.part.name, PartState.WAITING, now, detail=f"waits for {name}")

    def silent(self, name: str, since: float, detail: str) -> None:
        """Note that a part that was up does not answer; it is up again when it does.

        since  when the first question was put that it has not answered
        """
        self._move(name, PartState.SILENT, since, detail=detail, why=detail)

    def unready(self, name: str, now: float, detail: str) -> None:
        """Note that a part still runs, and says that it is not ready any more; it is up again when it is."""
        if self._live[name].state not in {PartState.UP, PartState.SILENT}:
            msg = f"{name}: {self._live[name].state} cannot stop being ready"
            raise MoveRefusedError(msg)
        self._move(name, PartState.STARTING, now, detail=detail, why=detail)

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

    def reconsider(self, now: float) -> None:
        """Let the parts that were given up be tried again: what made them fail may have changed."""
        for name, live in self._live.items():
            if live.state is PartState.FAILED:
                self._move(name, PartState.WAITING, now, failures=0, detail="")

    def failed(self) -> Live | None:
        """Return the vital part that was given up, or None."""
        return next(
            (
                live
                for live in self._live.values()
                if live.state is PartState.FAILED and live.part.vital
            ),
            None,
        )

    def is_up(self) -> bool:
        """Return True if every vital part is up."""
        return all(live.state is PartState.UP for live in self._live.values() if live.part.vital)

    def is_whole(self) -> bool:
        """Return True if every part is up."""
        return all(live.state is PartState.UP for live in self._live.values())

    def is_settled(self, now: float) -> bool:
        """Return True once the first start is over: the cluster was up, and of each other part it is known how it fares, or it has had its time."""
        return self.was_up and (
            now - self._up_at >= PATIENCE_S
            or all(
                live.state in {PartState.UP, PartState.SILENT, PartState.FAILED}
                or live.failures > 0
                for live in self._live.values()
                if not live.part.vital
            )
        )

    def is_moving(self) -> bool:
        """Return True if a part is being started."""
        return any(live.state is PartState.STARTING for live in self._live.values())

    def missing(self, name: str) -> tuple[str, ...]:
        """Return what a part needs that is not up."""
        needs = self._live[name].part.needs
        return tuple(need for need in needs if self._live[need].state is not PartState.UP)

    def next_at(self) -> float | None:
        """Return the nearest time at which a crashed part may be tried again, of those that wait for nothing else."""
        return min(
            (
                live.again_at
                for name, live in self._live.items()
                if live.state is PartState.CRASHED and not self.missing(name)
            ),
            default=None,
        )

    def _move(self, name: str, to: PartState, now: float, **changes: object) -> None:
        live = self._live[name]
        if to not in MOVES[live.state]:
            msg = f"{name}: {live.state} -> {to}"
            raise MoveRefusedError(msg)
        if to is PartState.UP:
            changes |= {"down_at": 0.0, "why": ""}
        elif live.state is PartState.UP:
            changes["down_at"] = now
        self._live[name] = replace(live, state=to, since=now, **changes)  # type: ignore[arg-type]
