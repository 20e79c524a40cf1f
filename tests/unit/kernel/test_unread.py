"""Writes that wait for a reader: ended after their limit, and nothing else is."""

import asyncio

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.unread import Reading, is_unread


async def test_a_write_that_waits_too_long_ends_and_the_task_goes_on():
    with Reading(0.02) as reading:
        for _ in range(100):
            await reading.write(asyncio.sleep(0))
        with pytest.raises(ConsiliumError) as told:
            await reading.write(asyncio.sleep(30))
    assert is_unread(told.value)
    assert (told.value.code, told.value.row.grpc) == ("deadline", "DEADLINE_EXCEEDED")
    await asyncio.sleep(0.05)  # nobody is cancelled any more


async def test_waiting_between_the_writes_is_no_fault_of_the_reader():
    with Reading(0.02) as reading:
        for _ in range(3):
            await reading.write(asyncio.sleep(0))
            await asyncio.sleep(0.06)


async def test_who_is_cancelled_meanwhile_is_cancelled():
    async def send():
        with Reading(30) as reading:
            await reading.write(asyncio.sleep(30))

    task = asyncio.ensure_future(send())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
