"""What an executor holds is what all its replicas hold, whoever of them spoke last."""

import pytest
from tests.unit.lora_router.test_fleet import House

from consilium.lora_router.common_engine import common
from consilium.lora_router.replica import LOST_S
from consilium.lora_router.reports import Report


def report(**facts):
    return Report("core", "r1", **facts)


def test_the_smallest_rank_and_the_modules_of_all():
    old = report(max_rank=16, target_modules=("q_proj", "o_proj"), mixed_experts=True)
    new = report(max_rank=8, target_modules=("down_proj", "q_proj"))
    said = common([old, new])
    assert (said.max_rank, said.target_modules, said.mixed_experts) == (8, ("q_proj",), False)


def test_one_that_names_no_modules_has_slots_for_all_and_no_rank_is_not_told():
    said = common([report(target_modules=("q_proj",)), report(max_rank=4)])
    assert (said.max_rank, said.target_modules) == (4, ("q_proj",))


def test_the_model_is_that_of_the_newest_and_what_it_does_not_tell_an_older_one_has_told():
    said = common([report(base_revision="a", base_config="{}"), report(base_revision="b")])
    assert (said.base_revision, said.base_config) == ("b", "{}")


def test_where_they_share_no_module_those_of_the_newest_count():
    said = common([report(target_modules=("q_proj",)), report(target_modules=("o_proj",))])
    assert said.target_modules == ("o_proj",)


@pytest.mark.asyncio
async def test_two_replicas_that_differ_are_heard_once_and_not_with_each_report():
    house = House()
    old = {"replica": "old", "max_rank": 16, "base_revision": "a"}
    new = {"replica": "new", "max_rank": 8, "target_modules": ("q_proj",), "base_revision": "b"}
    version = (await house.hears(**old)).version
    for _ in range(3):
        await house.hears(version, **new)
        await house.hears(version, **old)
    facts = [(r.max_rank, r.target_modules, r.base_revision) for r in house.heard]
    assert facts == [(16, (), "a"), (8, ("q_proj",), "b")]


@pytest.mark.asyncio
async def test_what_only_one_that_is_gone_could_not_hold_is_held_again():
    house = House()
    small = Report("core", "small", 0, base_config="{}", max_rank=8)
    await house.fleet.report(small)
    version = (await house.hears(max_rank=16)).version
    house.fleet.lost(small)
    house.clock.passed += LOST_S + 1
    await house.hears(version, max_rank=16)
    assert [each.max_rank for each in house.heard] == [8, 16]


@pytest.mark.asyncio
async def test_one_that_starts_again_with_another_model_is_the_newest():
    house = House()
    version = (await house.hears(replica="a", base_revision="old")).version
    await house.hears(version, replica="a", base_revision="old")
    await house.hears(version, replica="b", base_revision="old")
    await house.hears(0, replica="a", base_revision="new")
    await house.hears(version, replica="b", base_revision="old")
    assert house.fleet.revision("core") == "new"
