"""What is asked of replicas: what the room forgets when one falls silent, starts again or fails, and what it must not forget."""

import pytest

from consilium.kernel.clock import FakeClock
from consilium.lora_router.fleet import SILENT_S, Fleet
from consilium.lora_router.ports import Placement, Proof
from consilium.lora_router.reports import MoveKind, Report, Target, TriedNote, UseNote

pytestmark = pytest.mark.asyncio


def target(name, proof=Proof.OK, placement=Placement.SSD):
    return Target(f"{name}:sha", "f" * 64, 1, 8, 1000, "/store", placement, proof=proof)


class House:
    """A fleet, and what its executors may be asked for."""

    def __init__(self):
        self.clock, self.targets, self.heard = FakeClock(), {}, []
        self.fleet = Fleet(
            self.clock,
            targets=lambda _executor: {each.reference: each for each in self.targets.values()},
            on_tried=lambda _executor, _tried: None,
            on_uses=lambda _uses: None,
            on_executor=self.heard.append,
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


async def test_one_that_was_removed_and_added_again_is_tried_again():
    house = House()
    house.keep(target("sport", Proof.UNPROVEN))
    (move,) = (await house.hears()).moves
    verdict = (TriedNote("sport:sha", Proof.OK),)
    assert not (await house.hears(done=(move.id,), tried=verdict)).moves
    house.keep()
    house.keep(target("sport", Proof.UNPROVEN))
    assert [move.kind for move in (await house.hears()).moves] == [MoveKind.TRY]
