"""Each model tries an adapter for itself: what is kept of its verdicts, and who answers by them."""

import asyncio
from dataclasses import replace

import pytest
from tests.component.lora_router.test_room import House, until

from consilium.lora_router.ports import Proof
from consilium.lora_router.reports import MoveKind, Report, TriedNote


@pytest.fixture
async def house(tmp_path):
    made_house = House(tmp_path)
    yield made_house
    await made_house.close()


async def test_each_model_tries_an_adapter_and_answers_with_it_only_if_it_is_sound_there(house):
    await house.open()
    house.replica(name="r1", base_revision="one")
    coder = house.replica(name="r2", executor="coder", base_revision="two")
    coder.verdict = Proof.NO_EFFECT
    await house.add("sport")
    await until(lambda: house.row("sport")["current"])
    (version,) = house.row("sport")["versions"]
    assert version["fits"]["core"] == ""
    await until(lambda: "no_effect" in house.row("sport")["versions"][0]["fits"]["coder"])
    (version,) = house.row("sport")["versions"]
    assert version["answers"]
    assert "tried on this model, it is no_effect" in version["fits"]["coder"]


async def test_of_two_verdicts_at_once_none_is_lost(house):
    room = await house.open()
    stored = (await house.add("sport"))["stored"]
    reports = [
        Report(name, name, base_revision=name, tried=(TriedNote(f"sport:{stored[:16]}", proof),))
        for name, proof in (("core", Proof.OK), ("coder", Proof.NO_EFFECT))
    ]
    for report in reports:
        await room.desk.fleet.report(replace(report, tried=()))
    await asyncio.gather(*map(room.desk.fleet.report, reports))
    await until(lambda: house.row("sport")["current"])
    await until(lambda: "no_effect" in house.row("sport")["versions"][0]["fits"]["coder"])
    assert house.row("sport")["versions"][0]["fits"]["core"] == ""


async def test_another_model_of_the_same_shapes_tries_every_adapter_again(house):
    await house.open()
    old = house.replica(name="r1", base_revision="one")
    await house.add("sport")
    await until(lambda: house.row("sport")["versions"][0]["answers"])
    old.task.cancel()
    await house.room.aclose()
    await house.open()
    new = house.replica(name="r1", base_revision="two")
    new.verdict = Proof.DEGENERATE
    await until(lambda: "degenerate" in house.row("sport")["versions"][0]["fits"].get("core", ""))
    assert [kind for kind, _ in new.seen].count(MoveKind.TRY) == 1
    new.verdict = Proof.OK
    await house.add("sport", 1)
    await until(lambda: house.row("sport")["versions"][0]["fits"]["core"] == "")
