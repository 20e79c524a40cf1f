"""The pages that a metrics page is made of, asked for side by side, none of which can hold it up.

    answers in time   its page, age 0
    is slow or hangs  its last good page with its age, for KEPT_S; from then on it is asked, and not waited for, until it is quick again
    nobody is there   no page

Knows threads and time. Does not know what is on a page.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock, Thread
from time import monotonic
from typing import Final

from consilium.supervisor.probes import http_get

PATIENCE_S: Final = 1.0
"""Seconds that all sources together have to give their pages, those that were quick the last time."""
KEPT_S: Final = 300.0
"""Age at which the last good page of a source is not shown any more: Prometheus forgets a series that is not scraped after as long."""
HANGS_S: Final = 10.0
"""Seconds without a byte after which a question is given up and put again."""

Ask = Callable[[], str | None]
"""Returns a page, or None where nobody is there. May raise."""


def at(url: str, timeout_s: float = HANGS_S) -> Ask:
    """Return the question for the page at an address."""

    def ask() -> str | None:
        status, body = http_get(url, timeout_s=timeout_s)
        return body.decode("utf-8", "replace") if status == http.client.OK else None

    return ask


@dataclass(frozen=True, slots=True)
class Given:
    """What a source gave.

    page     the newest that is worth showing; empty = none
    age_s    seconds since it gave a page last, 0 if just now; since it was asked first if it never did
    is_late  whether it did not answer in time, or nobody was there
    """

    page: str
    age_s: float
    is_late: bool


class Sources:
    """The sources of one page.

    asks  name -> its question
    """

    def __init__(
        self,
        asks: Mapping[str, Ask],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._each = {name: _Source(ask, patience_s, clock) for name, ask in asks.items()}
        self._patience_s = patience_s
        self._clock = clock

    def get(self) -> dict[str, Given]:
        """Ask all at once and return what each has given, within the patience. Who still owes an answer is not asked again: whoever asks meanwhile waits for the same one."""
        asked = {name: source.ask() for name, source in self._each.items()}
        until = self._clock() + self._patience_s
        for name, question in asked.items():
            if not self._each[name].is_slow:
                question.join(max(0.0, until - self._clock()))
        return {name: self._each[name].given(question) for name, question in asked.items()}


class _Source:
    """One source, and what it gave last."""

    def __init__(self, ask: Ask, patience_s: float, clock: Callable[[], float]) -> None:
        self._ask, self._patience_s, self._clock = ask, patience_s, clock
        self._lock = Lock()
        self._question: Thread | None = None
        self._page = ""
        self._at = self._began = clock()
        self._is_good = self._is_gone = False
        self.is_slow = False

    def ask(self) -> Thread:
        """Return the question that is on its way, or a new one."""
        with self._lock:
            if self._question is None or not self._question.is_alive():
                self._began = self._clock()
                self._question = Thread(target=self._run, daemon=True, name="page")
                self._question.start()
            return self._question

    def given(self, question: Thread) -> Given:
        """Return what is there now; `question` is the one that was waited for."""
        with self._lock:
            now = self._clock()
            if question.is_alive():
                self.is_slow = self.is_slow or now - self._began >= self._patience_s
            elif self._is_good and not self.is_slow:
                return Given(self._page, 0.0, is_late=False)
            age_s = now - self._at
            shown = self._page if age_s < KEPT_S and not self._is_gone else ""
            return Given(shown, age_s, is_late=True)

    def _run(self) -> None:
        began = self._clock()
        page: str | None = None
        is_broken = False
        try:
            page = self._ask()
        except Exception:  # such as a file that was damaged: what it said before still holds
            is_broken = True
        with self._lock:
            now = self._clock()
            self.is_slow = now - began >= self._patience_s
            self._is_good = page is not None
            self._is_gone = page is None and not self.is_slow and not is_broken
            if page is not None:
                self._page, self._at = page, now
