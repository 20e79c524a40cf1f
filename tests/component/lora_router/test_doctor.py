"""What doctor sees of a true store and registry: beside a room that runs, after one that was killed, and of what was broken by hand."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from tests.component.lora_router.house import House, until

from consilium.cli.config_tree import ConsiliumConfig
from consilium.kernel.doctor import Facts, Level, Subject
from consilium.lora_router import doctor
from consilium.lora_router.backends.registry_seen import KNOWN, seen
from consilium.lora_router.ports import Proof


@pytest.fixture
async def house(tmp_path):
    made = House(tmp_path)
    await made.open()
    (tmp_path / "room").rename(tmp_path / "lora_router")
    (tmp_path / "room").symlink_to(tmp_path / "lora_router")
    yield made
    await made.close()


def subject(house, **tree):
    return Subject(ConsiliumConfig.model_validate(tree), house.folder)


async def test_beside_a_room_that_runs(house):
    await house.add("sport")
    found = doctor._library(subject(house))
    (one,) = found.registry.versions
    assert (found.registry.version, found.registry.damage) == (KNOWN, "")
    assert (one.proof, one.answers, found.lost) == (Proof.UNPROVEN, True, ())
    assert doctor._folder(subject(house)).forbidden == ()
    assert doctor._store(subject(house)).stored > 0
    await house.add("law", 2)
    assert len(doctor._library(subject(house)).registry.versions) == 2


async def test_files_that_are_gone_or_cut_are_named(house):
    for number, name in enumerate(("sport", "law", "whole")):
        await house.add(name, number + 1)
    paths = {row.name: row.path for row in house.room.library.versions()}
    shutil.rmtree(paths["sport"])
    tensors = paths["law"] / "adapter_model.safetensors"
    tensors.chmod(0o600)
    tensors.write_bytes(tensors.read_bytes()[:-1])
    lost = doctor._library(subject(house)).lost
    assert sorted(name.partition(":")[0] for name in lost) == ["law", "sport"]


async def test_what_a_start_has_moved_away_is_told(tmp_path):
    house = House(tmp_path)
    await house.open()
    await house.add("sport")
    (version,) = house.room.library.versions()
    await house.close()
    (version.path / "adapter_config.json").unlink()
    await house.open()
    (tmp_path / "room").rename(tmp_path / "lora_router")
    (row,) = house.room.servicer.adapter("sport").versions
    await house.close()
    assert "adapter_config.json is gone; what was left of it was moved to" in row.remarks[0]
    found = doctor._library(subject(house))
    assert found.lost == (f"sport:{version.sha[:16]}",)
    assert [name.partition("-")[0] for name in found.aside] == [version.sha]
    facts = Facts(subject(house), {doctor.LIBRARY: found})
    told = {row.id: row.test(facts) for row in doctor.ROWS if row.needs == (doctor.LIBRARY,)}
    assert told["adapter_files"].level is Level.FAILURE
    assert told["adapter_damaged"].level is Level.WARNING


async def test_after_the_room_was_killed(house, tmp_path):
    await house.add("sport")
    copy = tmp_path / "killed"  # the files as kill -9 leaves them: a log that nobody has played in
    copy.mkdir()
    for name in ("registry.db", "registry.db-wal"):
        shutil.copy(tmp_path / "lora_router" / name, copy / name)
    found = seen(copy / "registry.db")
    assert [one.reference.partition(":")[0] for one in found.versions] == ["sport"]


def test_none_newer_and_damaged(tmp_path):
    path = tmp_path / "registry.db"
    assert seen(path).version == 0
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {KNOWN + 3}")
    assert (seen(path).version, seen(path).is_newer) == (KNOWN + 3, True)
    path.write_bytes(b"no database at all, but longer than a header is" * 9)
    assert "not a database" in seen(path).damage


async def test_what_answers_nobody_is_told_while_replicas_report(house, monkeypatch):
    replica = house.replica()
    replica.verdict = Proof.DEGENERATE
    await house.add("sport")
    await until(lambda: house.room.library.find("sport").proof is Proof.DEGENERATE)
    assert doctor._library(subject(house)).unsound == ()  # no page says that engines are up
    monkeypatch.setattr(doctor, "_page", lambda _: (2, 0))
    (told,) = doctor._library(subject(house)).unsound
    assert told.startswith("sport:")
    assert told.endswith("(degenerate)")
    await house.add("law", 2, force=True)
    await until(lambda: house.room.library.find("law").proof is Proof.DEGENERATE)
    assert [name.partition(":")[0] for name in doctor._library(subject(house)).unsound] == ["sport"]


async def test_one_that_nobody_tried_is_told_after_a_while(house, monkeypatch):
    await house.add("sport")
    monkeypatch.setattr(doctor, "_page", lambda _: (1, 0))
    assert doctor._library(subject(house)).unsound == ()
    monkeypatch.setattr(doctor, "TRIED_WITHIN_S", -1.0)
    assert doctor._library(subject(house)).unsound[0].endswith("(unproven)")
    without = subject(house, lora_router={"canary": False})
    assert doctor._library(without).unsound == ()


def test_the_page_of_the_room_is_read():
    text = 'consilium_lora_replicas{executor="core"} 2.0\nconsilium_lora_replicas{executor="quick"} 1.0\n'
    assert doctor.read_page(text + "consilium_lora_not_taken_in 2.0\n") == (3, 2)
    assert doctor.read_page("") == (0, 0)
    seen = doctor.LibrarySeen(refused=2)
    told = [
        row.test(Facts(None, {doctor.LIBRARY: seen}))
        for row in doctor.ROWS
        if row.id == "adapters_configured"
    ]
    assert [(verdict.level, verdict.values["count"]) for verdict in told] == [(Level.WARNING, 2)]
    with pytest.raises(ValueError, match=r"."):
        doctor.read_page("<html>{")


async def test_folders_of_the_configuration_that_lack_their_files_are_named(house):
    whole = house.files("whole")
    rows = {"whole": {"path": str(whole)}, "gone": {"path": str(house.folder / "none")},
            "voice": {"path": "demo:captain"}, "hub": {"path": "org/name"}}  # fmt: skip
    found = doctor._sources(subject(house, adapters=rows))
    assert (found.count, found.gone) == (2, (f"adapters.gone.path: {house.folder / 'none'}",))
    assert doctor._sources(subject(house)).count == 0
