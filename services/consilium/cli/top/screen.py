"""The live picture in a terminal: drawn anew after each reading and when the window changes its size; q and Ctrl-C end it, Ctrl-Z gives the terminal back.

The page is read in a thread, so that keys are heard while a cluster does not answer. Knows the terminal. Does not know the figures.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from consilium.cli.top.frame import frame

if TYPE_CHECKING:
    from rich.console import Console

    from consilium.cli.top.reading import Reading
    from consilium.cli.top.watch import Watch
    from consilium.kernel.errors import ConsiliumError

ENDING: Final = b"qQ"
HINT: Final = "q ends"


def show(watch: Watch, interval_s: float) -> None:
    """Draw until q or Ctrl-C. Raises ConsiliumError as `Watch.take` does; the terminal is as before then."""
    from rich.console import Console

    console = Console()
    watch.take(watch.read())  # an error here is told on the screen that everybody knows
    with suppress(KeyboardInterrupt):
        if console.is_dumb_terminal:
            _print(watch, console, interval_s)
        with _Bell() as bell:
            _Picture(watch, console, bell, interval_s).run()


def _print(watch: Watch, console: Console, interval_s: float) -> NoReturn:
    """Print frame after frame where the terminal cannot go back."""
    while True:
        time.sleep(interval_s)
        watch.take(watch.read())
        console.print(frame(watch.figures, watch.about(), console.width), soft_wrap=True)
        console.print()


class _Bell:
    """A pipe that wakes the loop: signals ring it, and answers that have come."""

    def __init__(self) -> None:
        self.heard, self._rung = os.pipe()
        os.set_blocking(self.heard, False)
        os.set_blocking(self._rung, False)
        self.stopped = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        signal.set_wakeup_fd(self._rung, warn_on_full_buffer=False)
        for number, handler in (
            (signal.SIGWINCH, lambda *_: None),
            (signal.SIGTSTP, self._stop),
            (signal.SIGTERM, _end),
        ):
            self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.heard)
        os.close(self._rung)

    def ring(self) -> None:
        """Wake the loop."""
        with suppress(OSError):
            os.write(self._rung, b"\0")

    def _stop(self, *_: object) -> None:
        self.stopped = True


class _Asked(Thread):
    """One reading; a daemon, so that whoever ends the picture does not wait for a cluster that hangs."""

    def __init__(self, watch: Watch, bell: _Bell) -> None:
        super().__init__(daemon=True, name="reading")
        self._watch, self._bell = watch, bell
        self.answer: Reading | ConsiliumError | None = None

    def run(self) -> None:
        """Read, and wake the loop."""
        self.answer = self._watch.read()
        self._bell.ring()


class _Picture:
    """The picture on the other screen of the terminal."""

    def __init__(
        self,
        watch: Watch,
        console: Console,
        bell: _Bell,
        interval_s: float,
    ) -> None:
        self._watch, self._console, self._bell = watch, console, bell
        self._interval_s = interval_s
        self._keys = [sys.stdin.fileno()] if sys.stdin.isatty() else []

    def run(self) -> None:
        """Draw until a key ends it. Raises KeyboardInterrupt, ConsiliumError."""
        asked: _Asked | None = None
        next_at = time.monotonic() + self._interval_s
        while True:
            with self._screen() as live:
                while not self._bell.stopped:
                    if asked is None and time.monotonic() >= next_at:
                        next_at = max(next_at + self._interval_s, time.monotonic())
                        asked = _Asked(self._watch, self._bell)
                        asked.start()
                    if asked is not None and asked.answer is not None:
                        self._watch.take(asked.answer)
                        asked = None
                    picture = frame(
                        self._watch.figures,
                        self._watch.about(HINT if self._keys else ""),
                        self._console.width,
                    )
                    live.update(picture, refresh=True)
                    wait_s = self._interval_s if asked else max(0.0, next_at - time.monotonic())
                    if self._is_ended(wait_s):
                        return
            self._bell.stopped = False
            signal.raise_signal(signal.SIGSTOP)  # goes on here with fg

    def _is_ended(self, wait_s: float) -> bool:
        """Wait for a key, a signal or an answer; return whether the key ends it."""
        ready, _, _ = select.select([self._bell.heard, *self._keys], [], [], wait_s)
        if self._bell.heard in ready:
            with suppress(BlockingIOError):
                os.read(self._bell.heard, 4096)
        for key in self._keys:
            if key in ready:
                typed = os.read(key, 64)
                if not typed:
                    self._keys = []  # the terminal is gone
                return not typed or any(letter in ENDING for letter in typed)
        return False

    @contextmanager
    def _screen(self) -> Iterator[Any]:
        from rich.live import Live

        before = [(key, termios.tcgetattr(key)) for key in self._keys]
        try:
            for key in self._keys:
                tty.setcbreak(key)
            with Live(
                console=self._console, screen=True, auto_refresh=False, vertical_overflow="crop"
            ) as live:
                yield live
        finally:
            for key, mode in before:
                termios.tcsetattr(key, termios.TCSADRAIN, mode)


def _end(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
