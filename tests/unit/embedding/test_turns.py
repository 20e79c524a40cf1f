import asyncio

import pytest

from consilium.embedding.turns import Turns


async def test_lower_numbers_come_first_and_equals_in_their_order():
    turns, order = Turns(), []

    async def work(name, rank):
        async with turns.take(rank):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(work(*pair) for pair in [("a", 1), ("b", 1), ("c", 0), ("d", 1)]))
    assert order == ["a", "c", "b", "d"]


async def test_who_is_cancelled_while_waiting_or_holding_leaves_the_turn_to_the_next():
    turns, held = Turns(), asyncio.Event()

    async def hold():
        async with turns.take(1):
            held.set()
            await asyncio.Event().wait()

    holder = asyncio.ensure_future(hold())
    await held.wait()
    waiting = [asyncio.ensure_future(hold()) for _ in range(2)]
    await asyncio.sleep(0)
    held.clear()
    holder.cancel()
    await asyncio.sleep(0)  # the first in line has been handed the turn, and does not know it yet
    waiting[0].cancel()
    await asyncio.wait_for(held.wait(), 60)
    waiting[1].cancel()
    for task in (holder, *waiting):
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(60), turns.take(1):
        pass


async def test_an_error_gives_the_turn_back():
    turns = Turns()
    with pytest.raises(ValueError, match="broken"):
        async with turns.take(0):
            raise ValueError("broken")
    async with asyncio.timeout(60), turns.take(0):
        pass
