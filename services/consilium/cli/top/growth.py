"""By how much counters have grown between two readings, and over a window of readings.

    growth = Growth(born_at_zero)
    step = growth.step(page, at)          # None for the first reading
    window.add(step); window.sum("consilium_gateway_tokens_total", "executor")

A counter that is smaller than before began anew, and what it shows now is what it has grown by, as Prometheus sees it. One that vanishes has grown by nothing; when it
comes back it is compared with what it was. Pure. Does not know what is counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.cli.top.page import Labels, Page

INSTANCE: Final = "instance"
"""Label of the source of a sample, where a page has several."""
FORGOTTEN_S: Final = 900.0
"""Seconds after which a series that has vanished is forgotten."""


@dataclass(frozen=True, slots=True)
class Step:
    """What has grown between two readings.

    at       when the later one was, on the monotonic clock
    seconds  between them
    grown    metric -> labels -> by how much; what has not grown is left out
    """

    at: float
    seconds: float
    grown: Mapping[str, Mapping[Labels, float]]


@dataclass(slots=True)
class _Last:
    value: float
    at: float


class Growth:
    """Compares readings.

    born  metrics whose series begin at zero: one that is new beside others of its metric and source counts with all that it shows. A new series of any other
          metric, and the first that is seen of a source, may be old and only late: it counts from its second reading, as in Prometheus
    """

    def __init__(self, counters: frozenset[str], born: frozenset[str]) -> None:
        self._counters, self._born = counters, born
        self._last: dict[tuple[str, Labels], _Last] = {}
        self._known: set[tuple[str, str]] = set()
        self._at: float | None = None

    def step(self, page: Page, at: float) -> Step | None:
        """Return what has grown since the last reading; None for the first, and for one that is no later than the last.

        at  when the page was read, on the monotonic clock
        """
        before = self._at
        if before is not None and at <= before:
            return None
        grown: dict[str, dict[Labels, float]] = {}
        known: set[tuple[str, str]] = set()
        for name in self._counters & page.keys():
            of_name = grown.setdefault(name, {})
            for labels, value in page[name].items():
                group = (name, dict(labels).get(INSTANCE, ""))
                known.add(group)
                if increase := self._increase(name, labels, value, group):
                    of_name[labels] = increase
                self._last[name, labels] = _Last(value, at)
        self._known |= known
        self._forget(at)
        self._at = at
        return None if before is None else Step(at, at - before, grown)

    def _increase(self, name: str, labels: Labels, value: float, group: tuple[str, str]) -> float:
        last = self._last.get((name, labels))
        if last is not None:
            return value - last.value if value >= last.value else value
        return value if name in self._born and group in self._known else 0.0

    def _forget(self, at: float) -> None:
        old = [key for key, last in self._last.items() if at - last.at > FORGOTTEN_S]
        for key in old:
            del self._last[key]
        if old:  # a source that comes back after so long is met as for the first time
            self._known = {(name, dict(labels).get(INSTANCE, "")) for name, labels in self._last}


class Window:
    """The steps of the last seconds."""

    def __init__(self, length_s: float) -> None:
        self._length_s = length_s
        self._steps: deque[Step] = deque()

    def add(self, step: Step) -> None:
        """Add a step and let go of those that are too old; the last one always stays."""
        self._steps.append(step)
        while len(self._steps) > 1 and step.at - self._steps[0].at >= self._length_s:
            self._steps.popleft()

    @property
    def seconds(self) -> float:
        """Return the time that the steps cover."""
        return sum(step.seconds for step in self._steps)

    def sums(self, name: str, *by: str, **only: str) -> dict[tuple[str, ...], float]:
        """Return how much a metric has grown in the window, by the values of labels.

        only  labels that must have these values
        """
        found: dict[tuple[str, ...], float] = {}
        for labels, value in self._grown(name):
            if all(labels.get(label) == wanted for label, wanted in only.items()):
                key = tuple(labels.get(label, "") for label in by)
                found[key] = found.get(key, 0.0) + value
        return found

    def _grown(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for step in self._steps:
            for labels, value in step.grown.get(name, {}).items():
                yield dict(labels), value
