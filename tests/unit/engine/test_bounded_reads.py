"""File work whose disk does not answer: it is left behind, told, and started no second time while it hangs."""

import asyncio
import threading

import pytest

from consilium.engine.bounded_reads import MOST_LEFT, BoundedReads
from consilium.kernel.errors import ConsiliumError

pytestmark = pytest.mark.asyncio


class Disk:
    """A disk that hangs until it is let go. `asked` are the reads that reached it."""

    def __init__(self):
        self.back, self.asked = threading.Event(), 0

    def read(self, _beat):
        self.asked += 1
        self.back.wait(60)
        return "late"


async def test_what_is_read_comes_back_and_what_is_raised_too():
    reads = BoundedReads()
    assert await reads.of("/a", lambda _beat: 7) == 7
    with pytest.raises(FileNotFoundError):
        await reads.of("/a", lambda _beat: open("/not/here"))  # noqa: SIM115
    assert reads.left == ()


async def test_a_read_that_hangs_is_left_behind_with_path_and_seconds():
    reads, disk = BoundedReads(0.1), Disk()
    with pytest.raises(ConsiliumError, match=r"0\.1 s") as told:
        await reads.of("/dead/share", disk.read)
    assert (told.value.code, told.value.detail) == ("disk_silent", "/dead/share")
    assert reads.left == ("/dead/share",)
    disk.back.set()


async def test_while_it_hangs_no_second_one_is_begun_and_others_go_on():
    reads, disk = BoundedReads(2.0), Disk()
    for _ in range(5):
        with pytest.raises(ConsiliumError):
            await reads.of("/dead", disk.read)
    assert disk.asked == 1
    assert await reads.of("/alive", lambda _beat: 1) == 1
    disk.back.set()
    async with asyncio.timeout(30):
        while reads.left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await reads.of("/dead", disk.read) == "late"


async def test_at_most_so_many_are_left_behind():
    reads, disk = BoundedReads(0.1), Disk()
    for number in range(MOST_LEFT + 3):
        with pytest.raises(ConsiliumError) as told:
            await reads.of(f"/dead/{number}", disk.read)
    assert disk.asked == MOST_LEFT
    assert told.value.detail.startswith("/dead/")
    disk.back.set()


async def test_no_more_than_so_many_run_at_once_though_none_is_silent_yet():
    reads, disk, running = BoundedReads(0.2), Disk(), threading.active_count()
    asked = [reads.of(f"/dead/{number}", disk.read) for number in range(50)]
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert {getattr(error, "code", error) for error in told} == {"disk_silent"}
    assert disk.asked == MOST_LEFT
    assert threading.active_count() - running <= MOST_LEFT
    disk.back.set()
    async with asyncio.timeout(30):
        while reads.left:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await reads.of("/dead/0", lambda _beat: 1) == 1


async def test_more_than_so_many_have_their_turn_one_after_another():
    reads, gate = BoundedReads(), threading.Event()
    found = await asyncio.gather(
        *(reads.of(f"/a/{n}", lambda _beat, n=n: gate.wait(0.01) or n) for n in range(20))
    )
    assert found == list(range(20))
    lost = asyncio.create_task(reads.of("/b", lambda _beat: gate.wait(5)))
    await asyncio.sleep(0)
    lost.cancel()
    gate.set()
    assert await asyncio.gather(*(reads.of(f"/c/{n}", lambda _beat: 1) for n in range(9))) == [1] * 9  # fmt: skip


async def test_a_slow_disk_that_goes_on_is_waited_for():
    reads, gate = BoundedReads(5.0), threading.Event()

    def slowly(beat):
        for _ in range(20):
            beat()
            gate.wait(0.01)
        return "whole"

    assert await reads.of("/slow", slowly) == "whole"


async def test_who_goes_away_leaves_the_read_to_its_end():
    reads, disk = BoundedReads(), Disk()
    asked = asyncio.create_task(reads.of("/a", disk.read))
    async with asyncio.timeout(30):
        while not disk.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    disk.back.set()
    assert await reads.of("/a", lambda _beat: 1) == 1
