"""Each model tries an adapter for itself: what is kept of its verdicts, and who answers by them."""

import asyncio
from dataclasses import replace

import pytest
from tests.component.lora_router.test_room import House, until

from consilium.kernel.errors import ConsiliumError
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


async def test_what_is_added_again_is_tried_again_only_where_it_was_not_sound(house):
    await house.open()
    core = house.replica(name="r1", base_revision="one")
    coder = house.replica(name="r2", executor="coder", base_revision="two")
    coder.verdict = Proof.NO_EFFECT
    await house.add("sport")
    await until(lambda: house.row("sport")["current"])
    await until(lambda: "no_effect" in house.row("sport")["versions"][0]["fits"]["coder"])
    coder.verdict = Proof.OK
    await house.add("sport", 1, examples=("How long?",))
    assert house.row("sport")["current"]
    await until(lambda: house.row("sport")["versions"][0]["fits"]["coder"] == "")
    assert [kind for kind, _ in core.seen].count(MoveKind.TRY) == 1


def trials(house):
    """Return the trials of the newest version."""
    return house.room.library.get("sport")[1][0].trials


async def test_a_version_takes_over_once_every_model_that_would_lose_the_old_one_has_tried_it(
    house,
):
    await house.open()
    core = house.replica(name="r1", base_revision="one")
    house.replica(name="r2", executor="coder", base_revision="two")
    old = (await house.add("sport"))["stored"]
    await until(lambda: len(trials(house)) == 2)
    obey = core.obey
    core.obey = lambda move: None if move.kind is MoveKind.TRY else obey(move)
    new = (await house.add("sport", 2))["stored"]
    await until(lambda: set(trials(house)) == {"two"})
    await until(lambda: (MoveKind.TRY, f"sport:{new[:16]}") in core.seen)
    assert house.row("sport")["current"] == old
    core.tried = (TriedNote(f"sport:{new[:16]}", Proof.OK),)
    await until(lambda: house.row("sport")["current"] == new)


async def test_one_model_that_finds_a_new_version_bad_keeps_the_old_one(house):
    await house.open()
    house.replica(name="r1", base_revision="one")
    coder = house.replica(name="r2", executor="coder", base_revision="two")
    old = (await house.add("sport"))["stored"]
    await until(lambda: len(trials(house)) == 2)
    coder.verdict = Proof.DEGENERATE
    new = (await house.add("sport", 2))["stored"]
    await until(lambda: len(trials(house)) == 2)
    assert house.row("sport")["current"] == old
    with pytest.raises(ConsiliumError, match="coder: tried on this model, it is degenerate"):
        await house.room.desk.switch("sport", new)


async def test_a_version_that_was_to_take_over_does_so_after_the_room_starts_anew(house):
    await house.open()
    replica = house.replica(base_revision="one")
    old = (await house.add("sport"))["stored"]
    await until(lambda: house.row("sport")["current"] == old)
    held = asyncio.Event()
    house.room.desk._bring_beside = lambda *_: held.wait()
    new = (await house.add("sport", 2))["stored"]
    await until(lambda: house.row("sport")["versions"][0]["answers"])
    replica.task.cancel()
    await house.room.aclose()
    room = await house.open()
    house.replica(base_revision="one")
    assert house.row("sport")["current"] == old
    await until(lambda: room.desk.fleet.executors())
    (waiting,) = room.library.waiting()
    await room.desk._take_over(waiting.registered.name)
    assert house.row("sport")["current"] == new
    assert not room.library.waiting()


async def test_a_damaged_version_keeps_no_new_one_from_taking_over(house):
    room = await house.open()
    await house.add("sport")
    replica = house.replica(base_revision="one")
    await until(lambda: house.row("sport")["current"])
    replica.task.cancel()
    (_, (version,)) = room.library.get("sport")
    await room.aclose()
    for file in version.path.iterdir():
        file.unlink()
    await house.open()
    house.replica(base_revision="one")
    new = (await house.add("sport", 2))["stored"]
    await until(lambda: house.row("sport")["current"] == new)
