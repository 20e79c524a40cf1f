"""Waiting for what another process, thread or task does: looked at again and again, with a limit."""

import asyncio
import time
from collections.abc import Callable


def until(
    what: Callable[[], object],
    limit_s: float = 30.0,
    why: str = "it did not happen in time",
    every_s: float = 0.02,
) -> float:
    """Return the seconds that it took until `what` was true. Fails the test, with `why`, after `limit_s`."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < limit_s, why
        time.sleep(every_s)
    return time.monotonic() - begun


async def until_true(
    what: Callable[[], object], limit_s: float = 30.0, why: str = "it did not happen in time"
) -> None:
    """The same within the loop, for what another task does."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < limit_s, why
        await asyncio.sleep(0.005)
