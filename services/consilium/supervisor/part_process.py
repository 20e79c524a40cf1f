"""The doing behind a part: a process with its log and its probe, or a probe alone.

Knows how to start, watch and end one part. Does not know which parts there are or when they are due (parts.py, supervisor.py).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from consilium.supervisor import processes
from consilium.supervisor.probes import Answer, Probe, Watch
from consilium.supervisor.state_folder import Pid

REAPED_S: Final = 2.0
"""A process with threads looks gone a moment before its exit code can be had."""


class Work(Protocol):
    """What the supervisor does with one part."""

    def start(self) -> None:
        """Begin; returns at once. Raises OSError if the program cannot be run."""

    def ended(self) -> int | None:
        """Return the exit code of a process that has ended, None while it runs or when there is none."""

    def answer(self, every_s: float) -> Answer:
        """Return what the probe said last, and ask again after `every_s` seconds."""

    def pids(self) -> tuple[Pid, ...]:
        """Return the processes that were started here and still run."""

    def tail(self) -> tuple[str, ...]:
        """Return the last lines of what it said."""

    def stop(self, grace_s: float) -> None:
        """End what was started."""


class ProcessWork:
    """A process of ours. Its output goes to a log file; its probe says when it is ready.

    environment  None = that of the supervisor, to which `up` gave everything that the parts need
    before       called just before each start
    after        called when the process has ended and nothing of it is left
    """

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        probe: Probe,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> None:
        self._command = command
        self._log = log
        self._environment = None if environment is None else dict(environment)
        self._before = before
        self._after = after
        self._watch = Watch(probe, 0.1)
        self._process: subprocess.Popen[bytes] | None = None
        self._known: Pid | None = None
        self._below: set[Pid] = set()
        self._begin = 0

    def start(self) -> None:
        """Start the process in a session of its own: a Ctrl-C in the terminal reaches the command, not the parts."""
        if self._before is not None:
            self._before()
        self._watch.forget()
        keep_tail(self._log)
        with self._log.open("ab") as log:
            self._begin = log.tell()
            self._process = subprocess.Popen(  # noqa: S603  the command is ours
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
                cwd=self._log.parent,
            )
        processes.own(self._process.pid)
        self._known = processes.identify(self._process.pid)
        self._below = set()

    def ended(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def answer(self, every_s: float) -> Answer:
        """Return what the probe said last."""
        return self._watch.look(every_s)

    def pids(self) -> tuple[Pid, ...]:
        """Return the process and everything below it. What was seen once is remembered: it may outlive its parent."""
        if self._known is not None:
            self._below.update(processes.descendants(self._known))
            self._below.add(self._known)
        self._below = {item for item in self._below if processes.is_alive(item)}
        return tuple(sorted(self._below, key=lambda item: item.started))

    def stop(self, grace_s: float) -> None:
        """Ask the process once to end, wait, then end whatever is left of its family. One that was stopped cannot hear, and gets no time."""
        family = self.pids()
        shared = processes.shared_memory(family)
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            until = monotonic() + grace_s
            while self._process.poll() is None and monotonic() < until and not self._is_stopped():
                family = tuple({*family, *self.pids()})
                try:
                    self._process.wait(0.1)
                except subprocess.TimeoutExpired:
                    continue
        processes.end((item for item in family), grace_s=min(grace_s, 3.0))
        processes.remove_shared(shared)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REAPED_S)
        if self._after is not None:
            self._after()
        self._watch.forget()

    def _is_stopped(self) -> bool:
        return self._known is not None and processes.is_stopped(self._known)

    def tail(self) -> tuple[str, ...]:
        """Return the last lines that it wrote since it was started."""
        return tuple(last_lines(self._log, 12, self._begin))


class ProbeWork:
    """A part without a process of its own: something elsewhere answers, or does not."""

    def __init__(self, probe: Probe) -> None:
        self._watch = Watch(probe, 0.2)

    def start(self) -> None:
        """Forget what was known."""
        self._watch.forget()

    def ended(self) -> int | None:
        """Return None: there is no process."""
        return None

    def answer(self, every_s: float) -> Answer:
        """Return what the probe said last."""
        return self._watch.look(every_s)

    def pids(self) -> tuple[Pid, ...]:
        """Return nothing: there is no process."""
        return ()

    def tail(self) -> tuple[str, ...]:
        """Return nothing: there is no log."""
        return ()

    def stop(self, grace_s: float) -> None:  # noqa: ARG002  the port's shape
        """Stop asking."""
        self._watch.forget()


LOG_LIMIT_BYTES = 20 * 1024 * 1024
LOG_KEPT_BYTES = 2 * 1024 * 1024


def keep_tail(path: Path) -> None:
    """Cut a log that has grown over 20 MB down to its last 2 MB. Called before a part is started."""
    try:
        if path.stat().st_size <= LOG_LIMIT_BYTES:
            return
        with path.open("rb") as file:
            file.seek(-LOG_KEPT_BYTES, 2)
            kept = file.read().partition(b"\n")[2]
        path.write_bytes(kept)
    except FileNotFoundError:
        return


def last_lines(path: Path, count: int, begin: int = 0) -> list[str]:
    """Return the last lines after byte `begin` that are not empty, at most `count`, each cut to 300 characters."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(begin, file.tell() - 32_768))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip()[:300] for line in text.splitlines() if line.strip()][-count:]


def all_pids(works: Iterable[Work]) -> tuple[Pid, ...]:
    """Return the processes of all parts, each once."""
    return tuple(dict.fromkeys(item for work in works for item in work.pids()))
