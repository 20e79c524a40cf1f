"""The desk of adapters against vLLM's rules: who is let in, what is where, and what nobody may see."""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager, suppress

import pytest
from tests.waiting import until_true

from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget, RanksDifferError
from consilium.engine.backends.echo_slots import EchoSlots
from consilium.engine.slots import Slots, Tier
from consilium.kernel.errors import ConsiliumError

pytestmark = pytest.mark.asyncio


def target(number, placement="ssd"):
    return AdapterTarget(f"a{number}:sha", "f" * 64, number, 8, 1000, f"/store/{number}", placement)


class Counted:
    def __init__(self):
        self.hits, self.loads = Counter(), Counter()

    def hit(self, tier):
        self.hits[tier] += 1

    def loaded(self, tier, seconds, *, well):
        assert seconds >= 0
        self.loads[tier, well] += 1

    def state(self, **figures):
        self.last = figures


class Stage:
    """A desk over an engine of the rules, with everything that may not happen noted."""

    def __init__(
        self, slots=4, ram=8, *, fault=None, max_wait_s=10.0, yield_s=1.0, targets=12, news_s=0.2
    ):
        self.engine = EchoSlots(slots, ram, fault=fault)
        self.counts = Counted()
        self.alarms = []
        self.desk = AdapterDesk(
            self.engine,
            Slots(slots, ram, max_wait_s=max_wait_s, yield_s=yield_s),
            files=self.held,
            counts=self.counts,
            on_alarm=self.alarms.append,
            news_s=news_s,
        )
        self.desk.told([target(n) for n in range(1, targets + 1)])
        self.running = Counter()
        self.places = slots

    @asynccontextmanager
    async def held(self, asked):
        yield asked

    async def answer(self, number, hold=asyncio.sleep, seconds=0.0, **limits):
        async with self.desk.hold(f"a{number}:sha", **limits) as held:
            self.running[number] += 1
            assert sum(count > 0 for count in self.running.values()) <= self.places
            try:
                for _ in range(3):
                    assert self.engine.mark(number) == held.target.reference
                    await hold(seconds)
            finally:
                self.running[number] -= 1
            return held

    def at_rest(self):
        names = {number: f"a{number}:sha" for number in range(100)}
        seen = self.desk.seen
        slots = {names[n] for n in self.engine._slots if n is not None}
        assert self.desk.slots.in_slots == slots
        assert self.desk.slots.ram == {names[n] for n in self.engine._ram}
        assert set(seen.slots) == set(self.engine._slots)
        assert not self.engine.surprises
        assert not self.alarms


async def test_tiers_are_told_as_they_were_found():
    stage = Stage()
    assert (await stage.answer(1)).tier is Tier.SSD
    assert (await stage.answer(1)).tier is Tier.SLOT
    for number in range(2, 6):
        await stage.answer(number)
    assert (await stage.answer(2)).tier is Tier.RAM
    assert stage.counts.hits == {Tier.SSD: 5, Tier.SLOT: 1, Tier.RAM: 1}
    await stage.desk.settle()
    stage.at_rest()


async def test_there_may_be_no_more_memory_than_slots():
    stage = Stage(slots=2, ram=2)
    for number in (1, 2, 3, 4, 1):
        await stage.answer(number)
    await stage.desk.settle()
    stage.at_rest()


async def test_sixty_four_callers_for_sixty_four_cold_adapters_are_all_served_in_turn():
    stage = Stage(slots=4, ram=8, targets=64)
    done = await asyncio.gather(*(stage.answer(n, seconds=0.002) for n in range(1, 65)))
    assert len(done) == 64
    await stage.desk.settle()
    stage.at_rest()


async def test_who_waits_too_long_is_refused_with_a_time():
    stage = Stage(slots=1, ram=2, max_wait_s=0.05, yield_s=0.01)
    gate = asyncio.Event()

    async def until_open(_seconds):
        await gate.wait()

    first = asyncio.create_task(stage.answer(1, hold=until_open))
    await until_true(lambda: stage.running[1])
    with pytest.raises(ConsiliumError) as refused:
        await stage.answer(2)
    assert refused.value.code == "no_free_lora_slot"
    assert 1.0 <= refused.value.retry_after_s <= 30.0
    gate.set()
    await first
    assert (await stage.answer(2)).wait_s < 0.05
    stage.at_rest()


async def test_a_stream_of_hot_calls_does_not_starve_a_cold_one():
    stage = Stage(slots=1, ram=2, max_wait_s=5.0, yield_s=0.05)
    stop = False

    async def hot():
        while not stop:
            await stage.answer(1, seconds=0.002)

    lanes = [asyncio.create_task(hot()) for _ in range(3)]
    await until_true(lambda: stage.running[1])
    held = await stage.answer(2)
    stop = True
    await asyncio.gather(*lanes)
    assert 0.03 <= held.wait_s < 2.5
    stage.at_rest()


async def test_pinned_ones_are_never_pushed_out_and_never_fill_all_slots():
    stage = Stage(slots=3, ram=6)
    stage.desk.told([target(n, "vram") for n in (1, 2, 3)])
    await stage.desk.settle()
    assert stage.desk.slots.in_slots >= {"a1:sha", "a2:sha"}
    for number in (4, 5, 6, 3, 7):
        await stage.answer(number)
        assert stage.desk.slots.in_slots >= {"a1:sha", "a2:sha"}
    await stage.desk.settle()
    stage.at_rest()


async def test_what_is_kept_in_memory_is_fetched_without_a_call_and_takes_no_slot():
    stage = Stage(slots=2, ram=6)
    stage.desk.told([target(n, "ram") for n in (1, 2, 3)])
    await stage.desk.settle()
    assert stage.desk.slots.ram == {"a1:sha", "a2:sha", "a3:sha"}
    assert not stage.desk.slots.in_slots
    for number in range(4, 12):
        await stage.answer(number)
    await stage.desk.settle()
    assert stage.desk.slots.ram >= {"a1:sha", "a2:sha", "a3:sha"}
    stage.at_rest()


async def test_what_was_evicted_stays_out_until_it_is_asked_for():
    stage = Stage(slots=2, ram=6)
    stage.desk.told([target(1, "ram")])
    await stage.desk.settle()
    await stage.desk.evict("a1:sha")
    await stage.desk.settle()
    assert not stage.desk.slots.ram
    assert (await stage.answer(1)).tier is Tier.SSD
    assert "a1:sha" in stage.desk.slots.ram
    stage.at_rest()


@pytest.mark.parametrize("tier", [Tier.RAM, Tier.SLOT])
async def test_what_was_evicted_can_be_placed_again(tier):
    stage = Stage(slots=2, ram=6, max_wait_s=0.5)
    await stage.desk.place("a1:sha", tier)
    await stage.desk.evict("a1:sha")
    await stage.desk.place("a1:sha", tier)
    assert "a1:sha" in stage.desk.slots.ram
    stage.at_rest()


async def test_an_eviction_waits_for_the_calls_that_use_it():
    stage = Stage()
    gate = asyncio.Event()

    async def until_open(_seconds):
        await gate.wait()

    call = asyncio.create_task(stage.answer(1, hold=until_open))
    await until_true(lambda: stage.running[1])
    stage.desk.told([], ["a1:sha"])
    gone = asyncio.create_task(stage.desk.evict("a1:sha"))
    await asyncio.sleep(0.01)
    assert not gone.done()
    gate.set()
    await call
    await gone
    assert 1 not in stage.engine._ram
    with pytest.raises(ConsiliumError, match="a1:sha"):
        await stage.answer(1)


@pytest.mark.parametrize("kind", ["read", "keep", "take"])
async def test_a_load_that_fails_once_is_tried_again(kind):
    left = [1]

    def fault(what, _number):
        if what == kind and left:
            left.pop()
            raise OSError("torn")

    stage = Stage(fault=fault)
    await stage.answer(1)
    await stage.desk.settle()
    stage.at_rest()


async def test_a_load_that_keeps_failing_ends_its_callers_only():
    def fault(_what, number):
        if number == 1:
            raise OSError("torn")

    stage = Stage(fault=fault)
    broken = [asyncio.create_task(stage.answer(1)) for _ in range(3)]
    assert (await stage.answer(2)).target.number == 2
    for call in broken:
        with pytest.raises(ConsiliumError, match="torn") as refused:
            await call
        assert refused.value.code == "adapter_refused"
    with pytest.raises(ConsiliumError):
        await stage.answer(1)
    stage.at_rest()


async def test_what_is_gone_while_it_answers_is_forgotten_once_it_was_let_go():
    stage = Stage()
    async with stage.desk.hold("a1:sha"):
        stage.desk.told([], ["a1:sha"])
        evicting = asyncio.create_task(stage.desk.evict("a1:sha"))
        await asyncio.sleep(0)
    await evicting
    book = stage.desk.slots
    assert not any("a1:sha" in each for each in (book._uses, book.last_used, book.let_go))
    stage.at_rest()


async def test_a_caller_that_goes_away_frees_what_it_held():
    stage = Stage(slots=1, ram=2)
    for _ in range(20):
        call = asyncio.create_task(stage.answer(1, seconds=1.0))
        await asyncio.sleep(0)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
    assert not stage.desk.slots.in_use
    assert not stage.desk.slots.waiting
    await stage.answer(2)
    stage.at_rest()


async def test_ranks_that_hold_different_adapters_end_the_replica():
    def fault(what, _number):
        if what == "take":
            raise RanksDifferError("0 holds 1, 1 holds none")

    stage = Stage(fault=fault, max_wait_s=0.2)
    with pytest.raises(ConsiliumError):
        await stage.answer(1)
    assert [type(alarm) for alarm in stage.alarms] == [RanksDifferError]


async def test_an_unknown_adapter_is_awaited_a_moment():
    stage = Stage()
    call = asyncio.create_task(stage.answer(50))
    await asyncio.sleep(0.01)
    stage.desk.told([target(50)])
    assert (await call).target.number == 50


@pytest.mark.parametrize("seed", range(5))
async def test_two_thousand_random_operations_leave_the_book_equal_to_the_engine(seed):
    """Ten thousand in all: calls, pins, hints, evictions, switches, removals, callers that go away, loads that fail, and engines that start anew."""
    draw = random.Random(seed)

    def fault(_what, _number):
        if draw.random() < 0.01:
            raise OSError("by chance")

    stage = Stage(
        slots=draw.choice([2, 4]),
        ram=draw.choice([4, 9]),
        fault=fault,
        targets=24,
        news_s=0,
        max_wait_s=1,
    )
    desk, calls = stage.desk, set()
    known = set(range(1, 25))

    async def call(number):
        with suppress(ConsiliumError):
            await stage.answer(number, seconds=draw.choice([0.0, 0.0, 0.001]))

    for step in range(2000):
        kind = draw.random()
        number = min(24, int(draw.paretovariate(0.7)))
        reference = f"a{number}:sha"
        if kind < 0.75:
            calls.add(asyncio.create_task(call(number)))
        elif kind < 0.80 and calls:
            draw.choice(sorted(calls, key=id)).cancel()
        elif kind < 0.85:
            desk.told([target(number, draw.choice(["vram", "ram", "ssd", "ssd"]))])
            known.add(number)
        elif kind < 0.88:
            desk.want({reference: asyncio.get_running_loop().time() + 0.01})
        elif kind < 0.93:
            calls.add(asyncio.create_task(desk.evict(reference)))
        elif kind < 0.95:
            desk.told([], [reference])
            known.discard(number)
            calls.add(asyncio.create_task(desk.evict(reference)))
        elif kind < 0.96 and len(known) > 8:
            calls.add(asyncio.create_task(desk.place(reference, draw.choice([Tier.RAM, Tier.SLOT]))))  # fmt: skip
        if step % 7 == 0:
            await asyncio.sleep(0)
        if len(calls) > 60 or step == 1999:
            results = await asyncio.wait_for(
                asyncio.gather(*calls, return_exceptions=True), timeout=30
            )
            for result in results:
                if isinstance(result, asyncio.CancelledError | ConsiliumError):
                    continue
                assert not isinstance(result, BaseException), result
            calls.clear()
            await asyncio.wait_for(desk.settle(), timeout=30)
            stage.at_rest()
    assert stage.counts.hits.total() > 800


async def test_ranks_that_differ_after_an_adapter_was_dropped_end_the_replica_too():
    stage = Stage()

    async def differ(_numbers):
        raise RanksDifferError("the ranks hold different adapters")

    await stage.answer(1)
    stage.engine.drop = differ
    with pytest.raises(RanksDifferError):
        await stage.desk.evict("a1:sha")
    assert stage.alarms


# Thousands of adapters


async def test_of_thousands_that_shall_be_kept_few_are_looked_at_for_a_move():
    book = Slots(2, 4)
    book.observe([], ["k1", "k2", "k3", "k4"], 0.0)
    for number in range(1, 10_001):
        book.tell(f"k{number}", placement="ram", size_bytes=1)
    looked = []

    def names():
        for number in range(1, 10_001):
            looked.append(number)
            yield f"k{number}"

    assert book.next_fetch(1.0, names=names()) is None
    assert looked == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("seed", range(5))
async def test_what_was_told_one_by_one_is_what_was_told_in_all(seed):
    draw, stage, targets = random.Random(seed), Stage(targets=0), {}
    for _ in range(300):
        number = draw.randint(1, 12)
        if draw.random() < 0.3:
            stage.desk.told([], [f"a{number}:sha"])
            targets.pop(number, None)
            continue
        told = target(number, draw.choice(["vram", "ram", "ssd"]))
        stage.desk.told([told])
        targets[number] = told
        rows = targets.values()
        assert stage.desk.slots.pinned == tuple(r.reference for r in rows if r.placement == "vram")
        assert stage.desk.slots.kept == {r.reference for r in rows if r.placement != "ssd"}
    await stage.desk.settle()
