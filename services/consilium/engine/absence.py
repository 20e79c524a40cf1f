"""Since when nobody runs an executor, and when somebody will again: what a caller is told to wait for.

Knows times of starts. Does not know engines or who starts them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

UNKNOWN_S: Final = 5.0
"""What is told before any start was seen."""
AROUND_S: Final = 4.0
"""What a start takes beyond the engine's own: the death is noticed, a process begins and imports."""
LATE_S: Final = 2.0
"""What is told when a start takes longer than the last one did."""


class Absence:
    """One executor's. `gone` and `back` may be called as often as one likes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._known_s: float | None = None
        self._was_back = False

    def gone(self) -> None:
        """Note that nobody answers for the executor."""
        if self._since is None:
            self._since = self._clock()

    def back(self, start_s: float) -> None:
        """Note that somebody does. start_s: seconds that the engine's own start took, as it told; 0.0 = it did not"""
        if self._since is not None and self._was_back:
            self._known_s = self._clock() - self._since
        elif self._known_s is None and start_s:
            self._known_s = start_s + AROUND_S
        self._since, self._was_back = None, True

    def retry_after_s(self) -> int:
        """Return whole seconds after which asking again makes sense: the last start's, less what has passed of this one."""
        if self._known_s is None:
            return math.ceil(UNKNOWN_S)
        passed = 0.0 if self._since is None else self._clock() - self._since
        return math.ceil(max(LATE_S, self._known_s - passed))
