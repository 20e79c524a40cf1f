"""Sums in the life of a room: made and loaded before a new version of a part answers, tried like a single adapter, and not served where they do nothing."""

import asyncio
import json
from dataclasses import replace

import pytest
from tests.component.lora_router.house import until

from consilium.gateway import adapter_rows
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.ports import Proof, Uses
from consilium.lora_router.reports import MoveKind, UseNote


def sums(house):
    return {key for key in house.room.table.keys if key.startswith("mix:")}


def parts(house, **weights):
    return [(f"{n}:{house.row(n)['current'][:16]}", weight) for n, weight in weights.items()]


def watch(house):
    """Return what the table held when the version that answers changed: [(current, sums)]."""
    seen, desk = [], house.room.desk
    real = desk.library.switch

    async def switch(name, sha, **how):
        seen.append((sha, sums(house), {s.reference for s in house.replicas[0].slots}))
        return await real(name, sha, **how)

    desk.library.switch = switch
    return seen


async def test_a_sum_with_the_core_is_made_and_loaded_before_the_new_version_answers(house):
    await house.open()
    replica = house.replica(slots=8)
    await house.add("core", 1)
    await until(lambda: house.row("core")["current"])
    await house.add("sport", 2, with_core="core", placement="vram")
    await until(lambda: any(s.reference.startswith("mix:") and s.pinned for s in replica.slots))
    (before,) = sums(house)
    seen = watch(house)
    new = (await house.add("core", 3))["stored"]
    await until(lambda: house.row("core")["current"] == new)
    ((sha, there, in_slots),) = seen
    (made,) = there - {before}
    assert sha == new
    assert made in in_slots
    await until(lambda: any(s.reference == made and s.pinned for s in replica.slots))


async def test_weights_that_come_to_one_content_are_one_sum_and_are_made_once_each(house):
    room = await house.open(lora_router={"canary": False})
    house.replica(slots=8)
    await house.add("core", 1)
    await house.add("sport", 2)
    stage, made = room.desk.sums._stage, []

    def counted(given, folder, largest):
        made.append(given)
        return stage.compose(given, folder, largest)

    room.desk.sums._stage = replace(stage, compose=counted)
    asked = [parts(house, core=1.0, sport=weight) for weight in (1.0, 1.000001, 1.000002)]
    asked += [parts(house, core=1.0, sport=weight) for weight in (0.5, 0.500001)]
    for _ in range(3):
        found = [await room.desk.compose(each) for each in asked]
        assert [len({*found[:3]}), len({*found[3:]}), len({*found})] == [1, 1, 2]
    assert len(made) == len(asked)
    told = [json.loads(raw) for raw in room.table.since("", 0).changed.values()]
    rows = adapter_rows.read({str(n): row for n, row in enumerate(told) if row["kind"] == "sum"}, heard=True).sums  # fmt: skip
    assert [rows[tuple(sorted(each))].reference for each in asked] == found, "gateways need not ask"


async def test_the_sums_of_cores_and_roles_are_no_requests_alone(house):
    roles = {"coach": {"adapters": ["sport", "law@0.5"], "frame": "..."}, "plain": {}}
    room = await house.open(lora_router={"canary": False, "adhoc_sums": 1}, roles=roles)
    house.replica(slots=8)
    await house.add("core", 1)
    await house.add("law", 2)
    await house.add("sport", 3, with_core="core", weight=0.9)
    await until(lambda: len(sums(house)) == 1, 60)  # sport with its core
    asked = parts(house, sport=0.9, law=0.5)
    made = await room.desk.compose(asked)
    assert len(room.desk.sums.lasting()) == 2
    for weight in (0.1, 0.2, 0.3):
        last = await room.desk.compose(parts(house, core=1.0, law=weight))
    assert sums(house) >= {made, last}
    assert len(sums(house)) == 3, "one place for what only requests name"


async def test_a_sum_that_was_used_lately_is_made_before_the_new_version_answers(house):
    await house.open(lora_router={"canary": False})
    replica = house.replica()
    await house.add("core", 1)
    await house.add("sport", 2)
    used = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    idle = await house.room.desk.compose(parts(house, core=1.0, sport=0.3))
    now = house.room.desk._clock.now()
    replica.uses = (UseNote(used, uses=Uses(1, 0, 0, now)), UseNote(idle, uses=Uses(1, 0, 0, 1.0)))
    await until(lambda: not replica.uses)
    seen = watch(house)
    new = (await house.add("sport", 3))["stored"]
    await until(lambda: house.row("sport")["current"] == new)
    ((_, there, _),) = seen
    (made,) = there - {used, idle}
    assert dict(house.row(made)["parts"])[f"sport:{new[:16]}"] == 0.7


async def test_a_switch_leaves_sums_to_their_callers_once_they_take_too_long(house, monkeypatch):
    monkeypatch.setattr("consilium.lora_router.sums.RENEW_S", 0.0)
    await house.open(lora_router={"canary": False})
    replica = house.replica(slots=8)
    for number, name in enumerate(("core", "sport", "law")):
        await house.add(name, number, **({"with_core": "core"} if name == "law" else {}))
    await until(lambda: sums(house))
    standing = sums(house)
    used = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    replica.uses = (UseNote(used, uses=Uses(1, 0, 0, house.room.desk._clock.now())),)
    await until(lambda: not replica.uses)
    seen = watch(house)
    new = (await house.add("core", 5))["stored"]
    await until(lambda: house.row("core")["current"] == new)
    ((_, there, _),) = seen
    (made,) = there - standing - {used}
    assert {part.partition(":")[0] for part, _ in house.row(made)["parts"]} == {"core", "law"}


async def test_a_switch_makes_the_sum_of_its_core_though_requests_have_all_their_places(house):
    await house.open(lora_router={"canary": False, "adhoc_sums": 1})
    replica = house.replica()
    for number, name in enumerate(("core", "law", "sport")):
        await house.add(name, number, **({"with_core": "core"} if name == "sport" else {}))
    await until(lambda: sums(house))
    used = await house.room.desk.compose(parts(house, core=1.0, law=0.5))
    replica.in_use[used] = 1
    replica.ram.append(used)
    await until(lambda: house.room.library.is_busy(used))
    async with house.room.desk.sums._places, house.room.desk.sums._places:  # others are being made
        new = (await house.add("core", 4))["stored"]
        await until(lambda: house.row("core")["current"] == new)
    await until(lambda: not house.room.desk.sums._coming)
    standing = house.room.desk.sums.lasting()
    assert standing == {tuple(map(tuple, parts(house, core=1.0, sport=1.0)))}
    with pytest.raises(ConsiliumError, match="none is free"):
        await house.room.desk.compose(parts(house, core=1.0, law=0.25))


async def test_a_new_version_that_could_not_be_added_to_its_core_does_not_answer(house):
    await house.open(lora_router={"canary": False})
    house.replica(max_rank=16)
    await house.add("core", 1)
    await house.add("sport", 2, with_core="core")
    await until(lambda: sums(house))
    before = house.row("sport")["current"]
    folder = house.files("sport", 3, ranks=16, r=16)
    from consilium.lora_router.http_fields import Said
    from consilium.lora_router.routes import Offered

    stored = (await house.room.take(Offered(Said("sport", force=True), folder, None)))["stored"]
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.switch("sport", stored)
    assert caught.value.fields["check"] == "rank_too_large"
    assert house.row("sport")["current"] == before


async def test_a_sum_is_tried_where_an_engine_holds_it_and_not_loaded_for_that(house):
    await house.open()
    replica = house.replica()
    for number, name in enumerate(("core", "sport")):
        await house.add(name, number)
        await until(lambda name=name: house.row(name)["current"])
    await until(lambda: house.room.library.find("sport").proof is Proof.OK)
    made = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    await until(lambda: made in replica.targets)
    assert (MoveKind.TRY, made) not in replica.seen
    replica.ram.append(made)
    await until(lambda: house.room.library.find(made).proof is Proof.OK)
    assert await house.room.desk.compose(parts(house, core=1.0, sport=0.7)) == made


async def test_a_sum_that_an_engine_finds_broken_is_not_served(house):
    await house.open()
    replica = house.replica()
    for number, name in enumerate(("core", "sport")):
        await house.add(name, number)
        await until(lambda name=name: house.row(name)["current"])
    replica.verdict = Proof.DEGENERATE
    made = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    await until(lambda: made in replica.targets)
    replica.ram.append(made)
    await until(lambda: made not in sums(house))
    await until(lambda: made not in replica.targets)
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    assert (caught.value.code, caught.value.fields["check"]) == ("adapter_refused", "degenerate")
    await until(lambda: made not in replica.ram)


async def test_a_sum_of_a_part_that_its_owner_insists_on_is_not_tried(house):
    await house.open()
    replica = house.replica()
    await house.add("core", 1, force=True)
    await house.add("sport", 2)
    await until(lambda: house.row("sport")["current"])
    made = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    replica.ram.append(made)
    await house.add("other", 3)
    await until(lambda: house.row("other")["current"])
    assert (MoveKind.TRY, made) not in replica.seen


async def test_a_sum_whose_parts_cancel_each_other_is_refused(house):
    await house.open(lora_router={"canary": False})
    await house.add("core", 1)
    await house.add("twin", 1)
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.compose(parts(house, core=0.7, twin=-0.7))
    assert caught.value.fields["check"] == "sum_nothing"
    assert not sums(house)


async def test_a_sum_whose_load_failed_is_tried_by_the_next_call(house):
    await house.open()
    replica = house.replica()
    for number, name in enumerate(("core", "sport")):
        await house.add(name, number)
        await until(lambda name=name: house.row(name)["current"])
    replica.verdict = Proof.FAILED
    made = await house.room.desk.compose(parts(house, core=1.0, sport=0.7))
    await until(lambda: made in replica.targets)
    replica.ram.append(made)
    await until(lambda: (MoveKind.TRY, made) in replica.seen)
    await asyncio.sleep(0.1)
    assert await house.room.desk.compose(parts(house, core=1.0, sport=0.7)) == made
