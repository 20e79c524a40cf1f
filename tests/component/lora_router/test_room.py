"""The desk over a true store and registry, with replicas that do what they are asked: what is tried, kept, switched, added up and removed."""

import asyncio
import threading
from dataclasses import replace

import pytest
from tests.component.lora_router.house import until
from tests.waiting import LIMIT_S

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.live_config import versions
from consilium.lora_router.config import View
from consilium.lora_router.http_fields import Said
from consilium.lora_router.ports import Placement, Proof, Uses
from consilium.lora_router.reports import MoveKind, UseNote
from consilium.lora_router.routes import Offered
from consilium.v1 import lora_router_pb2 as pb


async def test_a_core_is_held_to_what_the_configuration_is_held_to(house):
    await house.open(lora_router={"canary": False})
    await house.add("core", 1)
    await house.add("alone", 2, isolated=True)
    for seed, said, told in (
        (3, {"with_core": "cor"}, "'core'"),
        (4, {"with_core": "sport"}, "never added to itself"),
        (5, {"with_core": "alone"}, "'alone' is isolated"),
        (6, {"with_core": "core", "isolated": True}, "'sport' is isolated"),
    ):
        with pytest.raises(ConsiliumError) as caught:
            await house.add("sport", seed, **said)
        assert (caught.value.code, told in caught.value.public()) == ("invalid_request", True)
    assert {row.name for row in house.room.library.names()} == {"core", "alone"}
    await house.add("sport", 7, with_core="core")
    with pytest.raises(ConsiliumError) as caught:
        await house.add("core", 8, isolated=True)
    assert "core of sport" in caught.value.public()


async def test_a_new_adapter_answers_once_it_was_tried(house):
    await house.open()
    told = await house.add("sport")
    assert told["versions"][0]["proof"] in {"unproven", "PROOF_UNPROVEN"}
    assert house.row("sport")["current"] == ""
    replica = house.replica()
    await until(lambda: house.row("sport")["current"])
    assert [kind for kind, _ in replica.seen].count(MoveKind.TRY) == 1
    await until(lambda: replica.ram and house.room.desk.fleet.places(replica.ram[0]))
    assert house.room.desk.fleet.places(replica.ram[0])[0].tier is Placement.RAM


async def test_its_owner_may_insist_before_an_engine_is_there(house):
    await house.open()
    await house.add("sport", force=True)
    assert house.row("sport")["current"]


async def test_one_that_does_nothing_never_answers(house):
    await house.open()
    house.replica().verdict = Proof.NO_EFFECT
    await house.add("sport")
    await until(lambda: house.row("sport")["versions"][0]["proof"] == "no_effect")
    assert house.row("sport")["current"] == ""
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.switch("sport", house.row("sport")["versions"][0]["sha"])
    assert "--force" in caught.value.public()


async def test_a_new_version_is_loaded_wherever_the_old_one_is_and_then_answers(house):
    await house.open()
    one, two = house.replica(name="r1"), house.replica(name="r2")
    await house.add("sport", 1, placement="vram")
    await until(lambda: all(r.slots[0].reference for r in (one, two)))
    old = house.row("sport")["current"]
    await house.add("sport", 2)
    await until(lambda: house.row("sport")["current"] != old)
    new = "sport:" + house.row("sport")["current"][:16]
    assert all(new in [slot.reference for slot in r.slots] for r in (one, two))
    assert len(house.row("sport")["versions"]) == 2


async def test_a_replica_that_cannot_load_it_stops_the_switch_with_its_reason(house):
    await house.open()
    replica = house.replica()
    await house.add("sport", 1, placement="vram")
    await until(lambda: replica.slots[0].reference)
    old = house.row("sport")["current"]
    replica.verdict = Proof.UNPROVEN
    await house.add("sport", 2)
    new = next(v for v in house.row("sport")["versions"] if v["sha"] != old)
    replica.broken[new["reference"]] = "out of memory"
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.switch("sport", new["sha"], force=True)
    assert "out of memory" in caught.value.public()
    assert house.row("sport")["current"] == old


async def test_removed_is_gone_everywhere_and_not_while_it_is_used(house):
    await house.open()
    replica = house.replica()
    await house.add("sport", placement="vram")
    await until(lambda: replica.slots[0].reference)
    name = replica.slots[0].reference
    path = house.room.library.find("sport").path
    replica.in_use[name] = 1
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.remove("sport", 0.3)
    assert caught.value.code == "conflict"
    assert house.row("sport")["current"]
    assert path.is_dir()
    replica.in_use.clear()
    assert await house.room.desk.remove("sport", 3.0) == (name,)
    assert not path.exists()
    assert "sport" not in house.room.table.keys
    assert not replica.slots[0].reference


async def test_sums_are_made_once_and_kept(house):
    await house.open(lora_router={"canary": False})
    await house.add("core", 1)
    await house.add("sport", 2)
    parts = [(f"{n}:{house.row(n)['current'][:16]}", w) for n, w in (("core", 1.0), ("sport", 0.7))]
    first, second = await asyncio.gather(*(house.room.desk.compose(parts) for _ in range(2)))
    assert first == second == await house.room.desk.compose(parts)
    assert house.row(first)["parts"] == [[name, weight] for name, weight in sorted(parts)]
    await house.room.desk.remove("sport")
    assert first not in house.room.table.keys


async def test_an_adapter_with_a_core_has_its_sum_before_anybody_asks(house):
    await house.open()
    house.replica()
    await house.add("core", 1)
    await until(lambda: house.row("core")["current"])
    await house.add("sport", 2, with_core="core", placement="vram")
    await until(lambda: any(key.startswith("mix:") for key in house.room.table.keys))
    await until(
        lambda: any(s.reference.startswith("mix:") and s.pinned for s in house.replicas[0].slots)
    )


async def test_a_router_that_starts_anew_knows_its_replicas_again(house):
    await house.open(lora_router={"canary": False})
    replica = house.replica()
    await house.add("sport")
    await until(lambda: replica.ram)
    replica.task.cancel()
    await house.room.aclose()
    await house.open(lora_router={"canary": False})
    again = house.replica()
    again.ram, again.targets, again.version = replica.ram, replica.targets, replica.version
    await until(lambda: house.room.desk.places(house.room.library.find("sport")))
    assert house.row("sport")["current"]


async def test_uses_are_counted_and_kept(house):
    await house.open(lora_router={"canary": False})
    replica = house.replica()
    await house.add("sport")
    await until(lambda: replica.ram)
    replica.uses = (UseNote(replica.ram[0], uses=Uses(3, 2, 1, 1000.0)),)
    await until(lambda: not replica.uses)
    async with asyncio.timeout(LIMIT_S):
        while house.room.library.uses("sport").slot_hits != 3:
            await house.room.desk.flush()
            await asyncio.sleep(0.01)


async def test_pinning_leaves_a_slot_free(house):
    await house.open(lora_router={"canary": False})
    house.replica(slots=2)
    await house.add("one", 1, placement="vram")
    await house.add("two", 2)
    await until(lambda: house.room.desk.fleet.executors())
    with pytest.raises(ConsiliumError) as caught:
        await house.room.desk.place("two", Placement.VRAM)
    assert "engine.lora.slots" in caught.value.public()


async def test_what_its_owner_insists_on_answers_whatever_a_canary_finds(house):
    await house.open()
    await house.add("sport", force=True)
    replica = house.replica()
    replica.verdict = Proof.DEGENERATE
    await until(lambda: house.room.library.find("sport").proof is Proof.DEGENERATE)
    assert house.row("sport")["current"] == house.room.library.find("sport").sha
    assert house.room.desk.answers(house.room.library.find("sport"))


async def test_who_stops_waiting_for_a_removal_leaves_the_adapter_as_it_was(house):
    await house.open()
    replica = house.replica()
    added = await house.add("sport")
    await until(lambda: house.row("sport")["current"])
    reference = f"sport:{added['stored'][:16]}"
    await house.room.desk.warm("sport", MoveKind.SLOT)
    replica.in_use[reference] = 1
    removing = asyncio.create_task(house.room.desk.remove("sport"))
    await until(lambda: "sport" not in house.room.library.holdings.names or house.room.library.holdings.is_hidden("sport"))  # fmt: skip
    removing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await removing
    assert house.room.library.find("sport").sha == added["stored"]
    assert house.row("sport")["current"]


async def test_a_removed_version_takes_no_newer_one_with_it_that_waits_for_its_canary(house):
    await house.open()
    first = (await house.add("sport", force=True))["stored"]
    second = (await house.add("sport", seed=2))["stored"]
    await house.room.desk.switch("sport", second, force=True)
    third = (await house.add("sport", seed=3))["stored"]
    await house.room.desk.remove(f"sport:{first[:16]}")
    house.replica()
    await until(lambda: house.row("sport")["current"] == third)


async def test_a_sum_may_be_held_where_all_its_parts_may(house):
    await house.open()
    house.replica(name="r1", executor="core")
    house.replica(name="r2", executor="small")
    await house.add("core", force=True)
    await house.add("sport", seed=2, force=True, executors=["core"])
    await until(lambda: len(house.row("core")["versions"][0]["fits"]) == 2)
    parts = [(house.row(name)["versions"][0]["reference"], 1.0) for name in ("core", "sport")]
    made = house.row(await house.room.desk.compose(parts))
    assert not made["fits"]["core"]
    assert "adapters.sport.executors" in made["fits"]["small"]


async def test_a_model_that_is_heard_first_stops_nobody_while_its_adapters_are_weighed(
    house,
):
    room = await house.open(lora_router={"canary": False})
    for number in range(20):
        await house.add(f"a{number}", seed=number)
    asked = []

    def slow(_described, _engine):
        asked.append(threading.current_thread())
        return ()

    room.desk._fitting._fit = slow
    replica = house.replica()
    await until(lambda: len(replica.targets) == 20)
    assert len(asked) == 20
    assert threading.main_thread() not in asked


async def test_a_version_that_waits_for_its_canary_answers_also_if_the_room_starts_anew(house):
    await house.open()
    await house.add("sport", force=True)
    second = (await house.add("sport", seed=2))["stored"]
    await house.room.aclose()
    await house.open()
    house.replica()
    await until(lambda: house.row("sport")["current"] == second)


async def test_one_that_could_not_be_tried_is_tried_again_once_it_is_added_again(house):
    await house.open()
    replica = house.replica()
    replica.verdict = Proof.FAILED  # the room was away while its files were fetched
    sha = (await house.add("sport"))["stored"]
    await until(lambda: house.room.library.find(f"sport:{sha}").proof is Proof.FAILED)
    replica.verdict = Proof.OK
    await asyncio.sleep(0.1)
    assert not house.row("sport")["current"]
    await house.add("sport")
    await until(lambda: house.row("sport")["current"] == sha)


async def test_a_sum_that_made_room_is_no_sum_any_more_also_if_what_came_was_refused(house):
    await house.open()
    house.replica()
    for name, seed in (("a", 1), ("b", 2)):
        await house.add(name, seed=seed, force=True)
    parts = [(house.row(name)["versions"][0]["reference"], 1.0) for name in ("a", "b")]
    made = await house.room.desk.compose(parts)
    library = house.room.library
    library._limits = replace(library._limits, store_bytes=library.stored_bytes + 10)
    with pytest.raises(ConsiliumError):
        await house.room.take(
            Offered(Said("c"), house.files("d", 4, peft_type="OTHER", ranks=2), None)
        )
    assert made not in house.room.table


async def test_a_configured_folder_that_is_gone_is_told_while_what_is_stored_answers(house):
    folder = house.files("sport")
    tree = {"lora_router": {"canary": False}, "adapters": {"sport": {"path": str(folder)}}}
    room = await house.open(**tree)
    view = View.model_validate(tree)
    assert await room._configured(view)
    current = house.row("sport")["current"]
    aside = folder.rename(house.folder / "aside")
    assert not await room._configured(view)
    (told,) = (await room.servicer.ListAdapters(pb.ListAdaptersRequest(), None)).adapters
    assert str(folder) in told.not_taken_in
    assert "no such folder" in told.not_taken_in
    assert room.told("sport")["not_taken_in"] == told.not_taken_in
    assert house.row("sport")["current"] == told.current == current
    aside.rename(folder)
    assert await room._configured(view)
    assert room.told("sport")["not_taken_in"] == ""


async def test_one_that_cannot_be_removed_keeps_no_other_one_and_no_sum_waiting(house):
    folders = {name: house.files(name, seed) for seed, name in enumerate(("a", "b", "c", "core"))}
    every = {name: {"path": str(folder)} for name, folder in folders.items()}
    tree = {"lora_router": {"canary": False}, "adapters": every}
    room = await house.open(**tree)
    assert await room._configured(View.model_validate(tree))
    await house.add("mine", 9, with_core="a")
    kept = {"core": every["core"], "b": every["b"] | {"with_core": "core"}}
    view = View.model_validate(tree | {"adapters": kept})
    assert not await room._configured(view), "it is tried again"
    assert {row.name for row in room.library.names()} == {"a", "b", "core", "mine"}
    assert "could not be removed" in room.told("a")["not_taken_in"]
    assert "core of mine" in room.told("a")["not_taken_in"]
    assert any(parts[0][0].startswith("b:") for parts in room.desk.sums.standing())
    listed = await room.servicer.ListAdapters(pb.ListAdaptersRequest(with_sums=True), None)
    assert listed.configuration == versions(view)["adapters"]
    assert len(next(each for each in listed.adapters if each.name == "mix").versions) == 2
    await room.desk.remove("mine")
    assert await room._configured(view)
    assert {row.name for row in room.library.names()} == {"b", "core"}


async def test_a_configured_adapter_that_never_came_is_listed_with_the_reason(house):
    tree = {"adapters": {"sport": {"path": str(house.folder / "none")}}}
    room = await house.open(**tree)
    assert not await room._configured(View.model_validate(tree))
    (told,) = (await room.servicer.ListAdapters(pb.ListAdaptersRequest(), None)).adapters
    assert (told.name, told.from_config, len(told.versions)) == ("sport", True, 0)
    assert "no such folder" in told.not_taken_in
    assert room.told("sport")["not_taken_in"] == told.not_taken_in
