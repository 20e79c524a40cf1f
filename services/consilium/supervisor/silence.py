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
SHOWN_AFTER: Final = 2
"""Answers in a row that do not find a part ready, or refused connections, until a part that was up is shown as something else."""
SHOWN_S: Final = 2.0
"""Seconds that a part may owe an answer before it is shown as one that does not answer."""


@dataclass(slots=True)
class Silence:
    """What one part has said since it was started.

    since     when it was started, or heard last; a part that says that it is not ready yet is heard
    answered  whether it has been ready since its start
    failures  probes in a row that did not find it ready
    unheard   probes in a row that heard nothing
    counted   time of the last answer of the probe that was counted
    owed      when the first question was asked that has had no answer; 0.0 where none is owed
    not_ready since when it has answered, but not been ready; 0.0 where that is not so
    """

    since: float
    answered: bool = False
    failures: int = 0
    unheard: int = 0
    counted: float = 0.0
    owed: float = 0.0
    not_ready: float = 0.0

    def note(self, now: float, *, ok: bool, heard: bool = False, asked: float = 0.0) -> None:
        """Count one answer of the probe. A part that is ready was also heard.

        asked  when the question was put that this answers; 0.0 = just now
        """
        self.answered = self.answered or ok
        self.failures = 0 if ok else self.failures + 1
        if ok or heard:
            self.since, self.unheard, self.owed = now, 0, 0.0
        else:
            self.unheard += 1
            self.owed = self.owed or asked or now
        if ok:
            self.not_ready = 0.0
        elif heard:
            self.not_ready = self.not_ready or now

    def waits(self, asked: float) -> None:
        """Note that a question waits for its answer. asked  when it was put"""
        self.owed = self.owed or asked

    def is_shown(self) -> bool:
        """Return True if a part that was up is to be shown as one that is not ready."""
        return self.failures >= SHOWN_AFTER

    def is_silent(self, now: float) -> bool:
        """Return True if a part is to be shown as one that does not answer: it was asked a while ago, or nobody listens there."""
        return self.unheard >= SHOWN_AFTER or (bool(self.owed) and now - self.owed >= SHOWN_S)

    def is_stuck(self, now: float, limit_s: float | None) -> bool:
        """Return True if the part has said for longer than it may that it is not ready; it may always where there is no limit."""
        return limit_s is not None and bool(self.not_ready) and now - self.not_ready >= limit_s

    def is_over(self, now: float, limit_s: float | None) -> bool:
        """Return True if the part has been silent for longer than it may; it may always where there is no limit."""
        if limit_s is None or self.unheard < LEAST_FAILURES:
            return False
        return now - self.since >= (limit_s if self.answered else max(START_S, limit_s))
