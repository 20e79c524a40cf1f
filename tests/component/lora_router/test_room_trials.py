"""Each model tries an adapter for itself: what is kept of its verdicts, and who answers by them."""

import asyncio
import errno
from dataclasses import replace

import pytest
from tests.component.lora_router.house import until

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Proof
from consilium.lora_router.reports import MoveKind, Report, TriedNote


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
    await room.desk._takeover.of(waiting.registered.name)
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


async def test_a_version_that_comes_while_another_takes_over_takes_over_after_it(house):
    room = await house.open(lora_router={"canary": False})
    house.replica(base_revision="one")
    await house.add("sport")
    real, gate = room.desk._bring_beside, asyncio.Event()

    async def held(*how):
        await gate.wait()
        await real(*how)

    room.desk._bring_beside = held
    await house.add("sport", 2)
    last = (await house.add("sport", 3))["stored"]
    gate.set()
    await until(lambda: house.row("sport")["current"] == last)
    assert not room.library.waiting()


async def test_who_goes_back_while_another_version_takes_over_is_not_overtaken(house):
    room = await house.open(lora_router={"canary": False})
    house.replica(base_revision="one")
    old = (await house.add("sport"))["stored"]
    real, gate, asked = room.desk._bring_beside, asyncio.Event(), asyncio.Event()

    async def held(*how):
        asked.set()
        await gate.wait()
        await real(*how)

    room.desk._bring_beside = held
    await house.add("sport", 2)
    await asked.wait()
    await room.desk.switch("sport", old)
    gate.set()
    await until(lambda: not room.desk._takeover._switching)
    assert house.row("sport")["current"] == old
    assert not room.library.waiting()


async def test_a_full_disk_keeps_a_version_waiting_and_ends_nothing(house, monkeypatch):
    monkeypatch.setattr("consilium.lora_router.desk.FLUSH_S", 0.02)
    monkeypatch.setattr("consilium.lora_router.desk.AGAIN_S", 0.05)
    room = await house.open()
    house.replica(slots=8, base_revision="one")
    await house.add("core", 1)
    await until(lambda: house.row("core")["current"])
    await house.add("sport", 2, with_core="core")
    await until(lambda: any(key.startswith("mix:") for key in room.table.keys))
    running = asyncio.create_task(room.desk.run())
    real = room.desk.sums._stage

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    room.desk.sums._stage = replace(real, compose=full)
    new = (await house.add("core", 3))["stored"]
    await until(lambda: room.desk._takeover._reasons)
    assert "disk is full" in room.desk._takeover._reasons["core"]
    assert not running.done()
    room.desk.sums._stage = real
    await until(lambda: house.row("core")["current"] == new)
    running.cancel()


async def test_a_model_that_is_not_back_yet_holds_a_new_version_up(house):
    room = await house.open()
    core = house.replica(name="r1", base_revision="one")
    coder = house.replica(name="r2", executor="coder", base_revision="two")
    old = (await house.add("sport"))["stored"]
    await until(lambda: len(trials(house)) == 2)
    coder.task.cancel()
    new = (await house.add("sport", 2))["stored"]
    await until(lambda: set(trials(house)) == {"one"})
    core.task.cancel()
    await room.aclose()
    room = await house.open()
    house.replica(name="r1", base_revision="one")
    await until(lambda: room.desk.fleet.executors())
    await room.desk._takeover.of("sport")
    assert house.row("sport")["current"] == old
    house.replica(name="r2", executor="coder", base_revision="two")
    await until(lambda: house.row("sport")["current"] == new)
