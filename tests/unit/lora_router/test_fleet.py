"""What is asked of replicas: what the room forgets when one falls silent, starts again or fails, and what it must not forget."""

import asyncio

import pytest
from tests.waiting import LIMIT_S

from consilium.kernel.clock import FakeClock, SystemClock
from consilium.lora_router.fleet import GONE_S, MEETING_S, Fleet
from consilium.lora_router.ports import Placement, Proof
from consilium.lora_router.replica import LOST_S, QUIET_S, SILENT_S, UNHEARD_S, VAIN_S
from consilium.lora_router.reports import (
    MoveKind,
    Report,
    SlotView,
    Target,
    TriedNote,
    UseNote,
)

pytestmark = pytest.mark.asyncio


def target(name, proof=Proof.OK, placement=Placement.SSD):
    return Target(f"{name}:sha", "f" * 64, 1, 8, 1000, "/store", placement, proof=proof)


class House:
    """A fleet, and what its executors may be asked for."""

    def __init__(self, clock=None):
        self.clock, self.targets, self.heard = clock or FakeClock(), {}, []
        self.gone = []
        self.fleet = Fleet(
            self.clock,
            targets=lambda _executor: {each.reference: each for each in self.targets.values()},
            on_tried=lambda _executor, _tried: None,
            on_uses=lambda _uses: None,
            on_executor=self.heard.append,
            on_gone=self.gone.extend,
        )

    def keep(self, *targets):
        self.targets = {each.reference: each for each in targets}
        self.fleet.changed()

    async def hears(self, version=0, replica="r1", **more):
        report = Report("core", replica, version, base_config="{}", ram_places=8, **more)
        return await self.fleet.report(report)


async def test_a_replica_that_comes_back_hears_what_changed_while_none_was_there():
    house = House()
    house.keep(target("old"))
    before = await house.hears()
    house.clock.passed += SILENT_S + 1
    house.fleet.replicas()  # somebody looks: it is forgotten
    house.keep(target("new"))
    assert [each.reference for each in (await house.hears(0)).targets] == ["new:sha"]
    again = await house.hears(before.version, "r2")
    assert ([each.reference for each in again.targets], again.gone) == (["new:sha"], ("old:sha",))


async def test_an_engine_that_holds_larger_ranks_now_is_heard():
    house = House()
    await house.hears(max_rank=16)
    await house.hears(max_rank=64)
    assert [each.max_rank for each in house.heard] == [16, 64]


async def test_a_replica_that_starts_again_under_its_name_is_asked_again():
    house = House()
    house.keep(target("new", Proof.UNPROVEN))
    first = await house.hears()
    assert [move.kind for move in first.moves] == [MoveKind.TRY]
    assert not (await house.hears(first.version)).moves
    assert [move.kind for move in (await house.hears(0)).moves] == [MoveKind.TRY]


async def test_one_that_cannot_be_loaded_keeps_no_other_from_being_tried():
    house = House()
    house.keep(target("broken", Proof.UNPROVEN), target("sound", Proof.UNPROVEN))
    told = await house.hears(uses=(UseNote("broken:sha", failure="no such file"),))
    assert [(move.kind, move.reference) for move in told.moves] == [(MoveKind.TRY, "sound:sha")]


async def test_one_whose_disk_was_silent_is_tried_again_after_a_while():
    house = House()
    house.keep(target("sport", Proof.UNPROVEN))
    (move,) = (await house.hears()).moves
    uses = (UseNote("sport:sha", failure="its disk does not answer"),)
    told = await house.hears(1, done=(move.id,), uses=uses)
    for _ in range(11):
        assert not told.moves
        house.clock.passed += VAIN_S
        told = await house.hears(told.version)
    house.clock.passed += VAIN_S
    assert [each.kind for each in (await house.hears(told.version)).moves] == [MoveKind.TRY]


async def test_one_that_was_removed_and_added_again_is_tried_again():
    house = House()
    house.keep(target("sport", Proof.UNPROVEN))
    (move,) = (await house.hears()).moves
    verdict = (TriedNote("sport:sha", Proof.OK),)
    assert not (await house.hears(done=(move.id,), tried=verdict)).moves
    house.fleet.noted("sport:sha", "")
    house.keep()
    house.keep(target("sport", Proof.UNPROVEN))
    assert [move.kind for move in (await house.hears()).moves] == [MoveKind.TRY]


async def test_a_move_that_was_lost_on_its_way_is_sent_again_under_its_number():
    house = House()
    house.keep(target("sport", placement=Placement.RAM))
    first = await house.hears(tells_doing=True)
    (move,) = first.moves
    assert not (await house.hears(first.version, tells_doing=True)).moves, "it may be on its way"
    house.clock.passed += UNHEARD_S
    assert (await house.hears(first.version, tells_doing=True)).moves == (move,)


async def test_a_poll_that_waits_sends_a_lost_move_by_itself(monkeypatch):
    monkeypatch.setattr("consilium.lora_router.replica.UNHEARD_S", 0.05)
    house = House(SystemClock())
    house.keep(target("sport", placement=Placement.RAM))
    first = await house.hears(tells_doing=True)
    again = await house.hears(first.version, tells_doing=True, wait_s=30.0)
    assert again.moves == first.moves


async def test_a_move_that_has_arrived_is_not_sent_again_while_it_is_done():
    house = House()
    house.keep(target("sport", placement=Placement.RAM))
    first = await house.hears(tells_doing=True)
    doing = frozenset(move.id for move in first.moves)
    for _ in range(10):
        house.clock.passed += 30.0
        assert not (await house.hears(first.version, tells_doing=True, doing=doing)).moves


async def test_a_replica_of_an_older_release_is_not_asked_twice():
    house = House()
    house.keep(target("sport", placement=Placement.RAM))
    first = await house.hears()
    house.clock.passed += UNHEARD_S + 1
    assert not (await house.hears(first.version)).moves


async def test_a_replica_whose_connection_ends_is_silent_at_once_and_gone_soon():
    house = House()
    house.keep(target("sport"))
    slots = (SlotView(0, "sport:sha"),)
    report = Report("core", "r1", slots=slots, wait_s=30.0)
    waiting = asyncio.create_task(house.fleet.report(report))
    async with asyncio.timeout(10):
        while not house.fleet.places("sport:sha"):  # noqa: ASYNC110
            await asyncio.sleep(0)
    waiting.cancel()
    house.fleet.lost(report)
    (place,) = house.fleet.places("sport:sha")
    assert place.silent_since == house.clock.now()
    assert house.fleet.speaking() == ()
    house.clock.passed += LOST_S + 1
    assert house.fleet.places("sport:sha") == ()


async def test_a_replica_that_comes_back_is_silent_no_more():
    house = House()
    house.keep(target("sport"))
    slots = (SlotView(0, "sport:sha"),)
    old = Report("core", "r1", slots=slots)
    await house.fleet.report(old)
    house.fleet.lost(old)
    await house.hears(slots=slots)
    (place,) = house.fleet.places("sport:sha")
    assert place.silent_since == 0.0
    house.fleet.lost(old)  # the end of a poll that a newer one has taken over from
    assert len(house.fleet.speaking()) == 1


async def test_a_replica_that_says_nothing_is_told_as_silent_before_it_is_gone():
    house = House()
    house.keep(target("sport"))
    began = house.clock.now()
    await house.hears(slots=(SlotView(0, "sport:sha"),))
    house.clock.passed += QUIET_S + 1
    (place,) = house.fleet.places("sport:sha")
    assert place.silent_since == began
    house.clock.passed += SILENT_S - QUIET_S
    assert house.fleet.places("sport:sha") == ()


def pinned(*names, free=1):
    rows = [SlotView(place, f"{name}:sha", pinned=True) for place, name in enumerate(names)]
    return (*rows, *(SlotView(len(names) + place) for place in range(free)))


async def test_more_pinned_adapters_than_slots_are_not_asked_for_without_end():
    house = House()
    house.keep(*(target(name, placement=Placement.VRAM) for name in "abcde"))
    told = await house.hears(slots=pinned(free=4))
    assert [move.reference for move in told.moves] == ["a:sha", "b:sha", "c:sha"]
    done = tuple(move.id for move in told.moves)
    rest = await house.hears(told.version, slots=pinned("a", "b", "c"), done=done)
    assert rest.is_empty


async def test_a_move_that_was_done_and_changed_nothing_is_not_asked_again_at_once():
    house = House()
    house.keep(target("a", placement=Placement.RAM))
    told = await house.hears()
    (move,) = told.moves
    assert (await house.hears(told.version, done=(move.id,))).is_empty
    house.clock.passed += VAIN_S
    assert [each.kind for each in (await house.hears(told.version)).moves] == [MoveKind.RAM]


async def test_what_nobody_knows_any_more_is_taken_out_of_a_replica_also_where_nothing_else_is_known():
    house = House()
    told = await house.hears(slots=pinned("old"))
    assert [(move.kind, move.reference) for move in told.moves] == [(MoveKind.EVICT, "old:sha")]


async def test_a_room_that_has_just_begun_waits_for_the_replicas_before_it_says_that_none_holds_it():
    house = House()
    removal = asyncio.create_task(house.fleet.bring("old:sha", MoveKind.EVICT))
    await asyncio.sleep(0)
    told = await house.hears(slots=pinned("old"))
    assert [move.kind for move in told.moves] == [MoveKind.EVICT]
    house.clock.passed += MEETING_S
    assert not removal.done()
    await house.hears(told.version, slots=pinned(free=2), done=(told.moves[0].id,))
    assert await removal == ()


async def test_a_room_that_began_anew_gives_no_number_of_a_move_twice():
    numbers = []
    for now in (0.0, 60.0):
        house = House()
        house.clock.passed += now
        house = House(house.clock)
        house.keep(*(target(name, placement=Placement.RAM) for name in "abc"))
        numbers += [move.id for move in (await house.hears()).moves]
    assert len(set(numbers)) == 6


async def test_a_lost_move_that_nobody_wants_any_more_keeps_nothing_from_being_removed():
    house = House()
    house.clock.passed += MEETING_S
    house.keep(target("sport"))
    house.fleet.hint(["sport:sha"], house.clock.now() + 1)
    first = await house.hears(tells_doing=True)
    assert [move.kind for move in first.moves] == [MoveKind.RAM]
    house.clock.passed += 1.5  # the hint is over
    house.keep()
    removal = asyncio.create_task(house.fleet.bring("sport:sha", MoveKind.EVICT))
    told = await house.hears(first.version, tells_doing=True)
    await house.hears(told.version, tells_doing=True)
    await asyncio.sleep(0)
    assert not removal.done(), "it may be on its way"
    house.clock.passed += UNHEARD_S
    await house.hears(told.version, tells_doing=True)
    async with asyncio.timeout(LIMIT_S):
        assert await removal == ()


async def test_a_move_that_is_under_way_is_waited_for_though_nobody_wants_it_any_more():
    house = House()
    house.clock.passed += MEETING_S
    house.keep(target("sport", placement=Placement.RAM))
    first = await house.hears(tells_doing=True)
    house.keep()
    removal = asyncio.create_task(house.fleet.bring("sport:sha", MoveKind.EVICT, wait_s=600.0))
    doing = frozenset(move.id for move in first.moves)
    for _ in range(5):
        told = await house.hears(first.version, tells_doing=True, doing=doing)
        house.clock.passed += 30.0
        await house.hears(told.version, tells_doing=True, doing=doing)
        await asyncio.sleep(0)
        assert not removal.done()
    await house.hears(told.version, tells_doing=True, done=tuple(doing))
    async with asyncio.timeout(LIMIT_S):
        assert await removal == ()


async def test_an_executor_that_could_not_be_taken_in_is_heard_again():
    house = House()
    taken, seen = house.fleet._on_executor, []

    def fails(report):
        seen.append(house.fleet.revisions()[report.executor])
        raise RuntimeError("once")

    house.fleet._on_executor = fails
    with pytest.raises(RuntimeError):
        await house.hears(base_revision="one")
    house.fleet._on_executor = taken
    await house.hears(base_revision="one")
    assert seen == ["one"]
    assert [each.base_revision for each in house.heard] == ["one"]


async def test_an_executor_that_is_gone_for_long_is_forgotten_and_told_everything_if_it_comes_back():
    house = House()
    house.keep(target("sport"))
    version = (await house.hears(base_revision="one")).version
    house.clock.passed += GONE_S - 1
    house.fleet.forget_gone()
    assert house.fleet.revisions() == {"core": "one"}, "an engine may start again"
    house.clock.passed += 2
    house.fleet.forget_gone()
    assert (house.fleet.revisions(), house.gone) == ({}, ["core"])
    told = await house.fleet.report(Report("core", "r1", version, base_revision="one"))
    assert told.whole, "it tells its model again"
    assert [each.reference for each in told.targets] == ["sport:sha"]
    assert not (await house.hears(told.version)).whole


async def test_one_that_waits_for_its_wishes_is_not_gone():
    house = House()
    await house.hears(base_revision="one")
    house.clock.passed += SILENT_S - 1
    house.fleet.forget_gone()
    assert "core" in house.fleet.revisions()
