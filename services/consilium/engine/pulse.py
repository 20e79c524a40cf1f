"""Whether an engine's core still answers: it is asked a question that costs nothing, once a second, for as long as the engine lives.

A core that was stopped or hangs says nothing, and its replica would not know until somebody asks for a token. Knows times. Does not know vLLM.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

EVERY_S: Final = 1.0


class Pulse:
    """Asks again and again, one question at a time.

    ask    a question that the core answers between two steps; what it raises is another's to tell
    steps  how many steps the core has made: one that makes steps is not silent, however long the question waits
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[object]],
        steps: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = EVERY_S,
    ) -> None:
        self._ask, self._steps, self._clock, self._every_s = ask, steps, clock, every_s
        self._asked: float | None = None
        self._counted = 0

    def silent_s(self) -> float:
        """Return for how many seconds the core has owed an answer and made no step; 0.0 if it owes none."""
        if self._asked is None:
            return 0.0
        if self._steps() != self._counted:
            self._asked, self._counted = self._clock(), self._steps()
        return self._clock() - self._asked

    async def run(self) -> None:
        """Ask for as long as this task lives."""
        while True:
            self._asked, self._counted = self._clock(), self._steps()
            try:
                await self._ask()
            except Exception:  # a core that died is told by whoever watches it
                self._asked = None
                return
            self._asked = None
            await asyncio.sleep(self._every_s)
