"""Waiting for what another process, thread or task does, and the one place where a test may judge how long something took.

A test runs on a machine that stands still for seconds at times, so it waits for the thing itself, as long as LIMIT_S, and says what it means
by the order of events. How quick something is belongs into tests/bench. tests/arch/test_no_stopwatch.py holds that.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LIMIT_S = 60.0
LEAST_S = 10.0


def until(
    what: Callable[[], object],
    limit_s: float = LIMIT_S,
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
    what: Callable[[], object], limit_s: float = LIMIT_S, why: str = "it did not happen in time"
) -> float:
    """The same within the loop, for what another task does."""
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < limit_s, why
        await asyncio.sleep(0.005)
    return time.monotonic() - begun


@contextmanager
def sooner_than(hangs_s: float, why: str = "it waited for what hangs") -> Iterator[None]:
    """Hold a block to be over before `hangs_s`, the seconds that it would take if it waited for what hangs.

    Tells two behaviours apart and is no stopwatch: what hangs in a test hangs for LEAST_S at least, many times what the block takes.
    """
    assert hangs_s >= LEAST_S, f"a busy machine may take {hangs_s} s for anything: hang longer"
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < hangs_s, why
