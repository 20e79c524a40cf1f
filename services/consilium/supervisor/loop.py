"""Looks after the parts of one cluster on one machine. app.py is the process around it.

Starts the parts as soon as what they need is there, starts again one that crashed or fell silent, writes cluster.json, and ends everything in order when told to.
Knows parts and works. Does not know what a part is made of (parts.py).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from threading import Thread
from typing import IO, Final

from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor import processes
from consilium.supervisor.failures import PASSING, failure_of
from consilium.supervisor.part_process import Work
from consilium.supervisor.probes import Answer
from consilium.supervisor.silence import Silence
from consilium.supervisor.state_folder import Cluster, Failure, PartRecord, Pid, StateFolder
from consilium.supervisor.states import RUNNING, Board, Live, Part, PartState, ending_order

TICK_STARTING_S: Final = 0.05
TICK_RESTARTING_S: Final = 0.1
TICK_UP_S: Final = 0.25
PROBE_STARTING_S: Final = 0.1
PROBE_LATE_S: Final = 1.0
LATE_S: Final = 10.0
"""A part that has been starting for longer is asked less often."""
PROBE_UP_S: Final = 0.75
PROBE_DOUBT_S: Final = 0.2
"""A part that was up is asked again this soon once it was not found ready."""
LOOKED_S: Final = 0.5
PROBES_PER_LIMIT: Final = 5
"""How often a part with a limit on its silence is asked within that limit."""
PIDS_EVERY_S: Final = 2.0
REAP_EVERY_S: Final = 0.5
SHORT_GRACE_S: Final = 1.0
"""What a hung part, and what is left of a crashed one, get to end."""
FAMILY_S: Final = 8.0
"""Seconds that ending what a part leaves behind may take, beyond its own grace."""


class Supervisor:
    """Drives a board of parts with their works.

    drain  called first when the cluster is stopped: nobody takes new work or requests, and the running answers are finished
    told   what cluster.json says of a part beside its state: address, words, log
    """

    def __init__(
        self,
        *,
        folder: StateFolder,
        cluster: Cluster,
        parts: tuple[Part, ...],
        works: Mapping[str, Work],
        told: Mapping[str, PartRecord] | None = None,
        drain: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._order = ending_order(parts)
        stop_s = {part.name: part.stop_s for part in parts}
        end_s = sum(max(stop_s[name] for name in group) + FAMILY_S for group in self._order)
        self._folder = folder
        self._cluster = replace(cluster, end_s=end_s)
        self._written: Cluster | None = None
        self._learned: dict[str, object] = {}
        self._works = dict(works)
        self._told_of = dict(told or {})
        self._drain = drain
        self._clock = clock
        self._board = Board(parts, clock())
        self._silence: dict[str, Silence] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._stop = False
        self._told = ""
        self._pids_at = 0.0
        self._reaped_at = 0.0
        self._looked_at = 0.0
        self._config_at = _changed_at(folder)
        self._pids: dict[str, tuple[Pid, ...]] = {}
        self._words: dict[str, Failure] = {}
        self._before = frozenset(_below_us())

    def ask_to_stop(self) -> None:
        """Let `run` end; may be called from a signal handler or another thread. Asking again changes nothing: each part keeps its grace."""
        self._stop = True
        self.wake()

    def wake(self) -> None:
        """Let `run` look at once, such as when a child has ended; may be called from a signal handler or another thread."""
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
        changed_at = _changed_at(self._folder)
        if changed_at != self._config_at:  # `apply` may have mended what a part failed for
            self._config_at = changed_at
            self._board.reconsider(now)
        for name in self._board.due(now):
            self._start(name, now)
        for name in self._works:
            self._observe(self._board[name], self._clock())
        if now - self._reaped_at >= REAP_EVERY_S:
            self._reaped_at = now
            processes.reap_orphans()
        self._write()
        if now - self._looked_at >= LOOKED_S:
            self._looked_at = now
            with contextlib.suppress(OSError):
                self._folder.looked.touch(0o600)

    def parts_up(self) -> dict[str, bool]:
        """Return which parts are up, for the metrics page."""
        return {live.part.name: live.state is PartState.UP for live in self._board.all()}

    def _start(self, name: str, now: float) -> None:
        self._silence[name] = Silence(now)
        self._board.started(name, now)
        try:
            self._works[name].start()
        except ConsiliumError as err:
            failure = Failure(err.code, err.public(), err.row.next_step, name)
            self._words[name] = failure
            fatal = (
                not self._board.was_up
                if self._board[name].part.vital
                else failure.code not in PASSING
            )
            self._board.lost(name, now, failure.sentence, fatal=fatal)
        except OSError as err:
            self._board.lost(name, now, str(err))
        self._pids_at = 0.0

    def _observe(self, live: Live, now: float) -> None:
        if live.state not in RUNNING:
            return
        name, work = live.part.name, self._works[live.part.name]
        ended = work.ended()
        if ended is not None and (live.part.lives or ended != 0):
            self._lost(live, failure_of(name, ended, work.tail()), now)
            return
        silence = self._silence[name]
        answer = work.answer(_probe_every_s(live, silence, now))
        if answer.at not in {0.0, silence.counted}:
            silence.counted = answer.at
            silence.note(now, ok=answer.ok, heard=answer.heard, asked=answer.asked)
            self._answered(live, answer, now)
        elif answer.waits:
            silence.waits(answer.waits)
        if self._board[name].state is PartState.UP and silence.is_silent(now):
            self._board.silent(name, silence.owed or now, answer.detail or "does not answer")
        if sentence := self._why_over(live, now):
            next_step = f"'consilium logs {name}' shows what it said last."
            self._lost(live, Failure("part_failed", sentence, next_step, name), now)

    def _answered(self, live: Live, answer: Answer, now: float) -> None:
        """Move a part by what its probe has just said."""
        name, silence = live.part.name, self._silence[live.part.name]
        if answer.ok:
            if live.state is not PartState.UP:
                self._board.ready(name, now)
        elif (live.state is PartState.SILENT and answer.heard) or (
            live.state is PartState.UP and answer.heard and silence.is_shown()
        ):
            self._board.unready(name, now, answer.detail or "is not ready")
        elif live.state is PartState.STARTING and answer.detail != live.detail:
            self._board.note(name, answer.detail)

    def _why_over(self, live: Live, now: float) -> str:
        """Return why a part is ended and started again though it runs, or nothing."""
        part, silence = live.part, self._silence[live.part.name]
        name = part.name
        how = "it was ended and is started again"
        if not self._works[name].pids():
            return ""
        if silence.is_over(now, part.silent_s):
            return f"{name} did not answer for {now - silence.since:.0f} s; {how}"
        if silence.is_stuck(now, part.not_ready_s):
            said = f" ({live.detail})" if live.detail else ""
            return (
                f"{name} said for {now - silence.not_ready:.0f} s that it is not ready{said}; {how}"
            )
        return ""

    def _lost(self, live: Live, failure: Failure, now: float) -> None:
        """End what is left of a part and of what lived on it, and note why."""
        name = live.part.name
        self._words[name] = failure
        with contextlib.suppress(OSError):
            print(
                f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name} was lost: {failure.sentence}",
                file=sys.stderr,
                flush=True,
            )
        fatal = (
            not self._board.was_up and failure.code != "part_failed"
            if live.part.vital
            else failure.code not in PASSING
        )
        self._board.lost(name, now, failure.sentence, fatal=fatal)
        self._write()  # now: ending what is left takes seconds
        self._works[name].stop(SHORT_GRACE_S)
        left = (
            processes.orphans()
            if any(name in other.part.within for other in self._board.all())
            else ()
        )
        shared = processes.shared_memory(left)
        processes.end(left, grace_s=SHORT_GRACE_S)
        processes.remove_shared(shared)
        for other in self._board.all():
            if name in other.part.within and other.state is PartState.WAITING:
                self._works[other.part.name].stop(SHORT_GRACE_S)

    def _give_up(self, failed: Live) -> int:
        name = failed.part.name
        failure = self._words.get(name) or failure_of(name, 1, (failed.detail,))
        self._cluster = replace(self._cluster, failure=failure)
        return BY_CODE[failure.code].exit_code

    def _end_all(self) -> None:
        """End everything in order. Each step by itself: one that fails, such as for want of a descriptor or a thread, keeps no other from being done."""
        self._cluster = replace(self._cluster, phase="stopping")
        _whatever_happens(self._write)
        if self._drain is not None and self._board.was_up:
            _whatever_happens(self._drain)
        _whatever_happens(lambda: self._board.stopping(self._clock()))
        _whatever_happens(self._write)
        for group in self._order:
            self._end_group(group)
        rest: list[Pid] = []
        left: list[Pid] = []
        _whatever_happens(lambda: rest.extend(_below_us()))
        _whatever_happens(lambda: rest.extend(processes.marked(self._cluster.mark)))
        theirs = tuple(item for item in dict.fromkeys(rest) if item not in self._before)
        _whatever_happens(lambda: left.extend(processes.end(theirs, grace_s=2.0)))
        if not left:
            _whatever_happens(self._folder.clear_ray_temp)
        self._cluster = replace(
            self._cluster, phase="failed" if self._cluster.failure else "stopped", left=()
        )
        _whatever_happens(partial(self._write, pids=False))

    def _end_group(self, group: Iterable[str]) -> None:
        """End parts side by side: each is asked once, and only when its grace is over a second time. One that gets no thread is ended in this one, after the others were asked."""
        stops = {
            name: partial(self._works[name].stop, self._board[name].part.stop_s) for name in group
        }
        endings: dict[str, Thread] = {}
        for name, stop in stops.items():
            ending = Thread(target=_whatever_happens, args=(stop,), name=f"ending {name}")
            with contextlib.suppress(RuntimeError):
                ending.start()
                endings[name] = ending
        for name, stop in stops.items():
            if name not in endings:
                _whatever_happens(stop)
        for name in stops:
            if name in endings:
                endings[name].join()
            _whatever_happens(partial(self._board.stopped, name, self._clock()))
            _whatever_happens(self._write)

    def _sleep(self) -> None:
        ready, _, _ = select.select([self._wake_read], [], [], self._pause_s(self._clock()))
        if ready:
            os.read(self._wake_read, 64)

    def _pause_s(self, now: float) -> float:
        """Return how long nothing needs to be looked at."""
        if not self._board.is_settled(now):
            return TICK_STARTING_S
        if self._board.due(now):
            return 0.0
        tick = TICK_RESTARTING_S if self._board.is_moving() else TICK_UP_S
        again_at = self._board.next_at()
        return tick if again_at is None else min(tick, max(0.0, again_at - now))

    def _write(self, *, pids: bool = True) -> None:
        now = self._clock()
        if pids and now - self._pids_at >= PIDS_EVERY_S:
            self._pids_at = now
            self._pids = {name: work.pids() for name, work in self._works.items()}
        phase = self._cluster.phase
        if phase in {"starting", "up", "degraded"}:
            up = "up" if self._board.is_whole() else "degraded"
            phase = up if self._board.is_settled(now) else "starting"
        shift = time.time() - now
        records = {
            live.part.name: replace(
                self._told_of.get(live.part.name, PartRecord()),
                state=live.state.value,
                since=round(live.since + shift, 1),
                detail=self._detail(live),
                restarts=live.restarts,
                pids=self._pids.get(live.part.name, ()) if pids else (),
                vital=live.part.vital,
                down=round(live.down_at + shift, 1) if live.down_at else 0.0,
                why=live.why,
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

    def _detail(self, live: Live) -> str:
        """Return the line that is shown: what was said, or what a part waits for once the others are up."""
        if live.state is PartState.WAITING and not live.detail and self._board.was_up:
            return f"waits for {', '.join(self._board.missing(live.part.name))}"
        return live.detail

    def learn(self, **changes: object) -> None:
        """Set fields of cluster.json that become known later, such as the key. Any thread may; they are written with the next step."""
        self._learned |= changes  # beside the record: that is read and put back by the thread of `run`, which would undo what came in between

    @property
    def cluster(self) -> Cluster:
        """What cluster.json says now."""
        return self._cluster


def _probe_every_s(live: Live, silence: Silence, now: float) -> float:
    """Return seconds between two questions to a part."""
    if live.state is PartState.UP and silence.failures:
        return PROBE_DOUBT_S
    if live.state is PartState.STARTING:
        return PROBE_STARTING_S if now - live.since < LATE_S else PROBE_LATE_S
    limit_s = live.part.silent_s
    return PROBE_UP_S if limit_s is None else min(PROBE_UP_S, limit_s / PROBES_PER_LIMIT)


def _changed_at(folder: StateFolder) -> int:
    """Return when config.json was written last, in nanoseconds; 0 where there is none."""
    try:
        return folder.config.stat().st_mtime_ns
    except OSError:
        return 0


def _below_us() -> tuple[Pid, ...]:
    me = processes.identify(os.getpid())
    return processes.descendants(me) if me is not None else ()


def _whatever_happens(action: Callable[[], object]) -> None:
    """Do one step of the end. What it raises is told and keeps no other part from being ended."""
    try:
        action()
    except Exception:
        with contextlib.suppress(OSError):
            traceback.print_exc()


def hold_lock(folder: StateFolder) -> IO[str] | None:
    """Take the lock of a state folder. Return the open file that holds it, or None if a supervisor lives there. The lock ends with the process."""
    file = folder.lock.open("a", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file
