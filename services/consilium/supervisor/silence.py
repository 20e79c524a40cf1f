"""When a part has been silent for too long.

Knows times and what probes said. Does not know processes. The clock is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_FAILURES: Final = 2
"""Probes that must have heard nothing: a supervisor that was itself held up has heard nothing either."""
START_S: Final = 60.0
"""What a part that has not been ready since it was started gets at least, from its start or from when it was heard last: it has to import first, and others do so beside it."""
SHOWN_AFTER: Final = 3
"""Probes in a row that may fail before a part that was up is shown as starting again."""


@dataclass(slots=True)
class Silence:
    """What one part has said since it was started.

    since     when it was started, or heard last; a part that says that it is not ready yet is heard
    answered  whether it has been ready since its start
    failures  probes in a row that did not find it ready
    unheard   probes in a row that heard nothing
    counted   time of the last answer of the probe that was counted
    """

    since: float
    answered: bool = False
    failures: int = 0
    unheard: int = 0
    counted: float = 0.0

    def note(self, now: float, *, ok: bool, heard: bool = False) -> None:
        """Count one answer of the probe. A part that is ready was also heard."""
        self.answered = self.answered or ok
        self.failures = 0 if ok else self.failures + 1
        if ok or heard:
            self.since, self.unheard = now, 0
        else:
            self.unheard += 1

    def is_shown(self) -> bool:
        """Return True if a part that was up is to be shown as one that does not answer."""
        return self.failures >= SHOWN_AFTER

    def is_over(self, now: float, limit_s: float | None) -> bool:
        """Return True if the part has been silent for longer than it may; it may always where there is no limit."""
        if limit_s is None or self.unheard < LEAST_FAILURES:
            return False
        return now - self.since >= (limit_s if self.answered else max(START_S, limit_s))
