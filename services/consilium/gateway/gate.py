"""Places: how many turns an executor has in work from this process, which lanes may take the last of them, and who waits for one.

Counts, and lets those who wait go on by the rules of shares.py. Knows lanes, limits and whose turn it is. Does not know HTTP or engines.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count as numbers
from typing import Final

from consilium.engine.ports import Lane
from consilium.gateway import shares
from consilium.gateway.shares import Waiting, Who
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


NOBODY: Final = Who()


@dataclass(slots=True)
class _Count:
    limit: int
    places: int
    mean_s: float = 0.0
    running: Counter[Who] = field(default_factory=Counter)
    waiting: dict[Waiting, asyncio.Future[None]] = field(default_factory=dict)

    def held(self) -> Counter[Who]:
        return self.running + Counter(one.who for one in self.waiting)


class Gate:
    """Counts the turns in work of each executor in this process, and refuses above a limit.

    A refused caller is told when a place should be free: the running mean of a turn's seconds, divided by the places.
    """

    def __init__(self, limit: int) -> None:
        self._default = limit
        self._counts: dict[str, _Count] = {}
        self._numbers = numbers()

    def set_limit(self, executor: str, limit: int, places: int = 0) -> None:
        """Say how many turns an executor takes from this process, and how many of them it computes at once (by default all)."""
        count = self._count(executor)
        count.limit = max(1, limit)
        count.places = max(1, places or limit)
        self._let_go_on(count)

    async def admit(
        self, executor: str, lane: Lane, who: Who = NOBODY, *, patience_s: float = 600.0
    ) -> int:
        """Take a place, and wait for it while this key has its share. Return how many turns the key had in work before.

        Raises ConsiliumError(queue_full): too many are here already, or no place came within `patience_s`.
        """
        count = self._count(executor)
        self._refuse_above(count, executor, lane, who)
        if shares.may_run(who, count.running, {one.who for one in count.waiting}, count.places):
            return self._take(count, who)
        mine = Waiting(who, lane, next(self._numbers))
        place = count.waiting[mine] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(patience_s):
                await place
        except BaseException as error:
            if count.waiting.pop(mine, None) is None:  # it came in the same moment
                self._give_back(count, who)
            if isinstance(error, TimeoutError):
                raise self._full(count, executor, lane, count.limit) from None
            raise
        return count.running[who] - 1

    def enter(self, executor: str, lane: Lane = "interactive", who: Who = NOBODY) -> None:
        """Take a place without waiting for a share. Raises ConsiliumError(queue_full) with seconds after which a retry makes sense."""
        count = self._count(executor)
        self._refuse_above(count, executor, lane, who)
        self._take(count, who)

    def leave(self, executor: str, seconds: float, who: Who = NOBODY) -> None:
        """Give a place back after so many seconds."""
        count = self._count(executor)
        count.mean_s = (
            seconds if count.mean_s == 0 else count.mean_s + SMOOTH * (seconds - count.mean_s)
        )
        self._give_back(count, who)

    def _refuse_above(self, count: _Count, executor: str, lane: Lane, who: Who) -> None:
        limit, held = allowed(count.limit, lane), count.held()
        if held.total() >= limit or not shares.may_come(who, held, limit):
            raise self._full(count, executor, lane, limit)

    def _full(self, count: _Count, executor: str, lane: Lane, limit: int) -> ConsiliumError:
        wait_s = min(60.0, max(1.0, math.ceil(count.mean_s / count.limit * 2)))
        return ConsiliumError(
            "queue_full",
            f"lane {lane}",
            name=f"executor/{executor}",
            running=count.held().total(),
            limit=limit,
            retry_after_s=wait_s,
        )

    def _take(self, count: _Count, who: Who) -> int:
        count.running[who] += 1
        return count.running[who] - 1

    def _give_back(self, count: _Count, who: Who) -> None:
        count.running[who] -= 1
        if count.running[who] <= 0:
            del count.running[who]
        self._let_go_on(count)

    def _let_go_on(self, count: _Count) -> None:
        """Give places to those who wait, for as long as the rules have one for somebody."""
        while (mine := self._next(count)) is not None:
            place = count.waiting.pop(mine)
            self._take(count, mine.who)
            place.set_result(None)

    def _next(self, count: _Count) -> Waiting | None:
        queue = [one for one, place in count.waiting.items() if not place.done()]
        whose = {one.who for one in queue}  # few keys may wait with many turns: each is judged once
        able = {who for who in whose if shares.may_run(who, count.running, whose, count.places)}
        first = shares.following((one for one in queue if one.who in able), count.running)
        return first[0] if first else None

    @contextmanager
    def beside(self, name: str) -> Iterator[None]:
        """Count something in work that no engine's place is for, under a name of its own."""
        count = self._count(name)
        self._take(count, NOBODY)
        try:
            yield
        finally:
            self._give_back(count, NOBODY)

    def running(self, executor: str) -> int:
        """Return the turns in work."""
        return self._count(executor).running.total()

    def waiting(self, executor: str) -> int:
        """Return the turns that wait for a place because their key has its share."""
        return len(self._count(executor).waiting)

    def _count(self, executor: str) -> _Count:
        return self._counts.setdefault(executor, _Count(self._default, self._default))


def allowed(limit: int, lane: Lane) -> int:
    """Return how many of the places a lane may fill, at least one."""
    return max(1, math.floor(limit * SHARES[lane]))
