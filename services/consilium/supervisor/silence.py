"""When a part has been silent for too long.

Knows times and what probes said. Does not know processes. The clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_FAILURES: Final = 2
"""Probes that must have failed: a supervisor that was itself held up has heard nothing either."""
START_S: Final = 60.0
"""What a part that has not answered since it was started gets at least: it has to import first, and others do so beside it."""
SHOWN_AFTER: Final = 3
"""Probes in a row that may fail before a part that was up is shown as starting again."""


@dataclass(slots=True)
class Silence:
    """What one part has said since it was started.

    since     when it was started, or answered last
    answered  whether it has answered since its start
    failures  probes that failed since
    heard     time of the last answer of the probe that was counted
    """

    since: float
    answered: bool = False
    failures: int = 0
    heard: float = 0.0

    def note(self, now: float, *, ok: bool) -> None:
        """Count one answer of the probe."""
        if ok:
            self.since, self.answered, self.failures = now, True, 0
        else:
            self.failures += 1

    def is_shown(self) -> bool:
        """Return True if a part that was up is to be shown as one that does not answer."""
        return self.failures >= SHOWN_AFTER

    def is_over(self, now: float, limit_s: float | None) -> bool:
        """Return True if the part has been silent for longer than it may; it may always where there is no limit."""
        if limit_s is None or self.failures < LEAST_FAILURES:
            return False
        return now - self.since >= (limit_s if self.answered else max(START_S, limit_s))
