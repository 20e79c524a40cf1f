"""Places: how many turns an executor has in work from this process, and which lanes may take the last of them.

Pure counting. Knows lanes and limits. Does not know keys, HTTP or engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from consilium.engine.ports import Lane
from consilium.kernel.errors import ConsiliumError

SMOOTH: Final = 0.1
"""Weight of the newest service time in the running mean."""
SHARES: Final[Mapping[Lane, float]] = {
    "interactive": 1.0,
    "normal": 0.75,
    "batch": 0.625,
    "night": 0.5,
}
"""Lane -> share of the places up to which it is let in. A quarter is kept for people; batch and night are refused first.

A gate holds `max_in_flight_factor` (2) turns per place of the engine, so half of it is what the engine computes at once: night alone still fills a card.
"""


@dataclass(slots=True)
class _Count:
    limit: int
    running: int = 0
    mean_s: float = 0.0


class Gate:
    """Counts the turns in work of each executor in this process, and refuses above a limit.

    A refused caller is told when a place should be free: the running mean of a turn's seconds, divided by the places.
    """

    def __init__(self, limit: int) -> None:
        self._default = limit
        self._counts: dict[str, _Count] = {}

    def set_limit(self, executor: str, limit: int) -> None:
        """Say how many turns an executor takes from this process."""
        self._count(executor).limit = max(1, limit)

    def enter(self, executor: str, lane: Lane = "interactive") -> None:
        """Take a place. Raises ConsiliumError(queue_full) with seconds after which a retry makes sense."""
        count = self._count(executor)
        limit = allowed(count.limit, lane)
        if count.running >= limit:
            wait_s = min(60.0, max(1.0, math.ceil(count.mean_s / count.limit * 2)))
            raise ConsiliumError(
                "queue_full",
                f"lane {lane}",
                name=f"executor/{executor}",
                running=count.running,
                limit=limit,
                retry_after_s=wait_s,
            )
        count.running += 1

    def leave(self, executor: str, seconds: float) -> None:
        """Give a place back after so many seconds."""
        count = self._count(executor)
        count.running = max(0, count.running - 1)
        count.mean_s = (
            seconds if count.mean_s == 0 else count.mean_s + SMOOTH * (seconds - count.mean_s)
        )

    @contextmanager
    def beside(self, name: str) -> Iterator[None]:
        """Count something in work that no engine's place is for, under a name of its own."""
        count = self._count(name)
        count.running += 1
        try:
            yield
        finally:
            count.running -= 1

    def running(self, executor: str) -> int:
        """Return the turns in work."""
        return self._count(executor).running

    def _count(self, executor: str) -> _Count:
        return self._counts.setdefault(executor, _Count(self._default))


def allowed(limit: int, lane: Lane) -> int:
    """Return how many of the places a lane may fill, at least one."""
    return max(1, math.floor(limit * SHARES[lane]))
