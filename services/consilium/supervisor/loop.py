"""Looks after the parts of one cluster on one machine. supervise.py is the process around it.

Starts the parts as soon as what they need is there, starts a crashed one again, writes cluster.json, and ends everything in order when it is told to.
Knows parts and works. Does not know what a part is made of (assembly.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import IO, Final

from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor import processes
from consilium.supervisor.part_process import Work
from consilium.supervisor.state_folder import Cluster, Failure, PartRecord, Pid, StateFolder
from consilium.supervisor.states import Board, Live, Part, PartState

TICK_STARTING_S: Final = 0.05
TICK_UP_S: Final = 0.5
PROBE_STARTING_S: Final = 0.1
PROBE_UP_S: Final = 5.0
SILENT_LIMIT: Final = 3
"""Probes in a row that may fail before a part that was up is shown as starting again."""
PIDS_EVERY_S: Final = 2.0


class Supervisor:
    """Drives a board of parts with their works.

    drain   called first when the cluster is stopped: the gateway takes no new requests and finishes the running ones
    order   parts in the order in which they are ended
    """

    def __init__(
        self,
        *,
        folder: StateFolder,
        cluster: Cluster,
        parts: tuple[Part, ...],
        works: Mapping[str, Work],
        addresses: Mapping[str, str],
        order: tuple[str, ...],
        drain: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._cluster = cluster
        self._written: Cluster | None = None
        self._learned: dict[str, object] = {}
        self._works = dict(works)
        self._addresses = dict(addresses)
        self._order = order
        self._drain = drain
        self._clock = clock
        self._board = Board(parts, clock())
        self._silent: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._stop = False
        self._told = ""
        self._pids_at = 0.0
        self._pids: dict[str, tuple[Pid, ...]] = {}
        self._words: dict[str, Failure] = {}
        self._before = frozenset(_below_us())

    def ask_to_stop(self) -> None:
        """Let `run` end; may be called from a signal handler or another thread."""
        self._stop = True
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    def run(self) -> int:
        """Look after the parts until told to stop, or until a part is given up during the first start. Return the exit code."""
        code = 0
        try:
            while not self._stop:
                self._step_whatever_happens()
                failed = self._board.failed()
                if failed is not None:
                    code = self._give_up(failed)
                    break
                self._sleep()
        finally:
            self._end_all()
        return code

    def _step_whatever_happens(self) -> None:
        """Do one step. What it raises, such as for want of a descriptor, is told once and ends no cluster: the next step tries again."""
        try:
            self.step()
            self._told = ""
        except Exception as err:
            if repr(err) != self._told:
                self._told = repr(err)
                with contextlib.suppress(OSError):
                    traceback.print_exc()

    def step(self) -> None:
        """Start what is due, note what happened, write it down."""
        now = self._clock()
        for name in self._board.due(now):
            self._start(name, now)
        for name in self._works:
            self._observe(self._board[name], self._clock())
        processes.reap_orphans()
        self._write()

    def parts_up(self) -> dict[str, bool]:
        """Return which parts are up, for the metrics page."""
        return {live.part.name: live.state is PartState.UP for live in self._board.all()}

    def _start(self, name: str, now: float) -> None:
        self._silent[name] = 0
        self._heard[name] = 0.0
        self._board.started(name, now)
        try:
            self._works[name].start()
        except ConsiliumError as err:
            self._words[name] = Failure(err.code, err.public(), err.row.next_step, name)
            self._board.lost(name, now, err.public(), fatal=not self._board.was_up)
        except OSError as err:
            self._board.lost(name, now, str(err))
        self._pids_at = 0.0

    def _observe(self, live: Live, now: float) -> None:
        if live.state not in {PartState.STARTING, PartState.UP}:
            return
        name, work = live.part.name, self._works[live.part.name]
        ended = work.ended()
        if ended is not None and (live.part.lives or ended != 0):
            self._lost(live, ended, now)
            return
        answer = work.answer(PROBE_STARTING_S if live.state is PartState.STARTING else PROBE_UP_S)
        if answer.at == 0.0 or answer.at == self._heard.get(name):
            return
        self._heard[name] = answer.at
        if live.state is PartState.STARTING:
            if answer.ok:
                self._board.ready(name, now)
            elif answer.detail != live.detail:
                self._board.note(name, answer.detail)
            return
        self._silent[name] = 0 if answer.ok else self._silent.get(name, 0) + 1
        if self._silent[name] >= SILENT_LIMIT:
            self._board.unready(name, now, answer.detail or "does not answer")

    def _lost(self, live: Live, exit_code: int, now: float) -> None:
        name = live.part.name
        failure = failure_of(name, exit_code, self._works[name].tail())
        self._words[name] = failure
        with contextlib.suppress(OSError):
            print(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name} was lost: {failure.sentence}",
                file=sys.stderr,
                flush=True,
            )
        self._works[name].stop(1.0)  # what is left of its family
        left = (
            processes.orphans()
            if any(name in other.part.within for other in self._board.all())
            else ()
        )
        shared = processes.shared_memory(left)
        processes.end(left, grace_s=1.0)
        processes.remove_shared(shared)
        self._board.lost(
            name,
            now,
            failure.sentence,
            fatal=not self._board.was_up and failure.code != "part_failed",
        )
        for other in self._board.all():
            if name in other.part.within and other.state is PartState.WAITING:
                self._works[other.part.name].stop(1.0)

    def _give_up(self, failed: Live) -> int:
        name = failed.part.name
        failure = self._words.get(name) or failure_of(name, 1, (failed.detail,))
        self._cluster = replace(self._cluster, failure=failure)
        return BY_CODE[failure.code].exit_code

    def _end_all(self) -> None:
        self._cluster = replace(self._cluster, phase="stopping")
        self._write()
        if self._drain is not None and self._board.was_up:
            _whatever_happens(self._drain)
        self._board.stopping(self._clock())
        self._write()
        for name in self._order:
            _whatever_happens(partial(self._works[name].stop, 5.0))
            self._board.stopped(name, self._clock())
            self._write()
        rest = dict.fromkeys((*_below_us(), *processes.marked(self._cluster.mark)))
        processes.end((item for item in rest if item not in self._before), grace_s=2.0)
        self._cluster = replace(
            self._cluster, phase="failed" if self._cluster.failure else "stopped", left=()
        )
        self._write(pids=False)

    def _sleep(self) -> None:
        tick = TICK_UP_S if self._board.is_up() else TICK_STARTING_S
        ready, _, _ = select.select([self._wake_read], [], [], tick)
        if ready:
            os.read(self._wake_read, 64)

    def _write(self, *, pids: bool = True) -> None:
        now = self._clock()
        if pids and now - self._pids_at >= PIDS_EVERY_S:
            self._pids_at = now
            self._pids = {name: work.pids() for name, work in self._works.items()}
        phase = self._cluster.phase
        if phase in {"starting", "up"}:
            phase = "up" if self._board.was_up else "starting"
        shift = time.time() - now
        records = {
            live.part.name: PartRecord(
                live.state.value,
                round(live.since + shift, 1),
                self._addresses.get(live.part.name, ""),
                live.detail,
                live.restarts,
                self._pids.get(live.part.name, ()) if pids else (),
            )
            for live in self._board.all()
        }
        self._cluster = replace(self._cluster, phase=phase, parts=records, **self._learned)  # type: ignore[arg-type]
        if self._cluster != self._written:
            with contextlib.suppress(
                OSError
            ):  # a full disk: what runs is looked after all the same, and this is tried again
                self._folder.write_cluster(self._cluster)
                self._written = self._cluster

    def learn(self, **changes: object) -> None:
        """Set fields of cluster.json that become known later, such as the key. Any thread may; they are written with the next step."""
        self._learned |= changes  # beside the record: that is read and put back by the thread of `run`, which would undo what came in between

    @property
    def cluster(self) -> Cluster:
        """What cluster.json says now."""
        return self._cluster


def _below_us() -> tuple[Pid, ...]:
    me = processes.identify(os.getpid())
    return processes.descendants(me) if me is not None else ()


def _whatever_happens(action: Callable[[], None]) -> None:
    """Do one step of the end. What it raises is told and keeps no other part from being ended."""
    try:
        action()
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc()


def failure_of(name: str, exit_code: int, tail: Sequence[str]) -> Failure:
    """Return why a part ended: by its exit code where the catalogue knows it, with the sentence that it wrote last.

    tail  last lines of its log; `error:` and `next:` lines are what our own programs write before they end
    """
    row = next(
        (row for row in BY_CODE.values() if row.exit_code == exit_code and exit_code != 1),
        BY_CODE["part_failed"],
    )
    said = next(
        (
            line.removeprefix("error:").strip()
            for line in reversed(tail)
            if line.startswith("error:")
        ),
        "",
    )
    step = next(
        (line.removeprefix("next:").strip() for line in reversed(tail) if line.startswith("next:")),
        "",
    )
    if row.code != "part_failed" and said:
        return Failure(row.code, said, step or row.next_step, name)
    how = f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
    reason = said or " | ".join((f"it ended with {how}", *tail[-3:]))
    return Failure(
        "part_failed",
        BY_CODE["part_failed"].sentence.format(name=name, reason=reason),
        f"'consilium logs {name}' shows what it said.",
        name,
    )


def hold_lock(folder: StateFolder) -> IO[str] | None:
    """Take the lock of a state folder. Return the open file that holds it, or None if a supervisor lives there. The lock ends with the process."""
    file = folder.lock.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
