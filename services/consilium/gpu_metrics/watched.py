"""The last sample, kept by a process that never touches the driver itself.

    watched = Watched(period_s=1.0)
    watched.start()
    watched.seen()      -> the last sample, its age, and whether the driver answers

A child reads (backends/reading.py). One that is SILENT_S late with a reading is stuck in the driver: it is killed, which a process in the driver does not heed, left behind, and another
is started after a pause that grows. Whoever scrapes meanwhile gets the last sample at once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from consilium.gpu_metrics.samples import Sample, from_plain
from consilium.kernel import logs

SILENT_S: Final = 15.0
"""Beyond the pause between two readings. Eight cards without the persistence daemon take ten seconds and more to wake up."""
PAUSES_S: Final = (1.0, 5.0, 15.0, 60.0)
"""Before a new child after one that ended or hung; the last one goes on. Each that hangs leaves a process behind until the driver lets it go."""
MOST_LEFT: Final = 4
"""Children that may be stuck in the driver at once; no further one is started until one of them ends."""

_log = logs.get("gpu_metrics")


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known.

    sample    the last one, or None before the first
    age_s     how old it is
    answers   whether the driver answers: the next sample is not yet SILENT_S late
    restarts  children that were started after the first
    left      children that are stuck in the driver
    """

    sample: Sample | None
    age_s: float
    answers: bool
    restarts: int
    left: int


class Watched:
    """Keeps one child reading."""

    def __init__(
        self,
        *,
        period_s: float = 1.0,
        pcie_throughput: bool = False,
        silent_s: float = SILENT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        command: Sequence[str] = (
            sys.executable,
            "-P",
            "-m",
            "consilium.gpu_metrics.backends.reading",
        ),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how often the cards are read, and how late a reading may be."""
        also = ("--pcie-throughput",) if pcie_throughput else ()
        self._command = (*command, "--period", str(period_s), *also)
        self._silent_s = period_s + silent_s
        self._pauses_s, self._clock = tuple(pauses_s), clock
        self._sample: Sample | None = None
        self._at = clock()
        self._starts = 0
        self._left: list[subprocess.Popen[str]] = []
        self._child: subprocess.Popen[str] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="cards")

    def start(self) -> None:
        """Begin to read."""
        self._at = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """End the child; one that is stuck is left."""
        self._ended.set()
        child = self._child
        if child is not None:
            child.kill()

    def seen(self) -> Seen:
        """Return what is known. Waits for nobody."""
        age_s = self._clock() - self._at
        self._left = [child for child in self._left if child.poll() is None]
        return Seen(
            self._sample,
            age_s,
            self._sample is not None and age_s < self._silent_s,
            max(0, self._starts - 1),
            len(self._left),
        )

    def _run(self) -> None:
        failures = 0
        while not self._ended.is_set():
            before = self._at
            if len(self._left) < MOST_LEFT:
                self._read_with(self._started())
            else:
                self._left = [child for child in self._left if child.poll() is None]
            failures = 0 if self._at > before else failures + 1
            if self._ended.wait(self._pauses_s[min(max(failures, 1), len(self._pauses_s)) - 1]):
                return

    def _started(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(  # noqa: S603  our own module
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._child = child
        self._starts += 1
        return child

    def _read_with(self, child: subprocess.Popen[str]) -> None:
        """Take the child's lines until it ends or is silent for too long."""
        heard = [self._clock()]
        taking = threading.Thread(target=self._take, args=(child, heard), daemon=True)
        taking.start()
        while taking.is_alive() and not self._ended.is_set():
            taking.join(min(1.0, self._silent_s / 4))
            if self._clock() - heard[0] > self._silent_s:
                _log.warning("driver_silent", seconds=round(self._silent_s), pid=child.pid)
                break
        child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1.0)
        if child.poll() is None:
            self._left.append(child)

    def _take(self, child: subprocess.Popen[str], heard: list[float]) -> None:
        if child.stdout is None:
            return
        with contextlib.suppress(OSError, ValueError), child.stdout as lines:
            for line in lines:
                try:
                    sample = from_plain(json.loads(line))
                except (ValueError, TypeError, KeyError):
                    continue
                heard[0] = self._at = self._clock()
                self._sample = sample
