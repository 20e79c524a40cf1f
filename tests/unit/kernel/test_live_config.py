"""What differs between two trees, and who follows a file."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, SecretStr

from consilium.kernel.clock import FakeClock
from consilium.kernel.config import LIVE, Section, dump, load_json, restarts
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.live_config import (
    RETRY_S,
    Live,
    Reading,
    Swapped,
    difference,
    live_sections,
    version_of,
    versions,
)


class Role(Section):
    frame: str = ""
    profile: str = "auto"


class Store(Section):
    url: SecretStr | None = None
    timeout_s: float = 1.0


class Engine(Section):
    seats: int = 64
    env: dict[str, str] = Field(default_factory=dict)


class Tree(Section):
    model: str = Field("demo", json_schema_extra=restarts("engine"))
    engine: Engine = Field(default_factory=Engine)
    store: Store = Field(default_factory=Store, json_schema_extra=restarts("store and gateway"))
    roles: dict[str, Role] = Field(default_factory=dict, json_schema_extra=LIVE)


names = st.sampled_from(["poet", "judge", "key-keeper", "a.b"])
secrets = st.sampled_from([None, "redis://:hush-1@h/0", "redis://:hush-2@h/0"])
trees = st.builds(
    Tree,
    model=st.sampled_from(["demo", "tiny"]),
    engine=st.builds(
        Engine,
        seats=st.integers(1, 3),
        env=st.dictionaries(
            st.sampled_from(["HF_TOKEN", "NCCL"]), st.sampled_from(["hush-3", "hush-4"])
        ),
    ),
    store=st.builds(Store, url=secrets.map(lambda url: None if url is None else SecretStr(url))),
    roles=st.dictionaries(
        names,
        st.builds(Role, frame=st.sampled_from(["", "Rhyme.", "Weigh."]), profile=st.just("auto")),
    ),
)


def at(plain: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    for part in place[:-1]:
        plain = plain[part]
    return plain


@given(old=trees, new=trees)
def test_the_changes_are_exactly_what_differs(old: Tree, new: Tree) -> None:
    made, wanted = dump(old, masked=False), dump(new, masked=False)
    for change in difference(old, new):
        holder = at(made, change.place)
        if change.kind == "removed":
            del holder[change.place[-1]]
        else:
            assert (change.place[-1] in holder) == (change.kind == "changed")
            holder[change.place[-1]] = at(wanted, change.place)[change.place[-1]]
    assert made == wanted


@given(old=trees, new=trees)
def test_no_secret_is_shown_and_only_marked_sections_are_live(old: Tree, new: Tree) -> None:
    for change in difference(old, new):
        if change.place[-1] != "NCCL":
            assert "hush" not in repr(change)
        assert change.live == (change.place[0] == "roles")
        assert bool(change.restarts) != change.live


@given(one=trees, other=trees)
def test_versions_differ_where_the_live_sections_do(one: Tree, other: Tree) -> None:
    assert difference(one, one) == ()
    assert (versions(one) == versions(other)) == (one.roles == other.roles)


def test_the_part_is_named_by_the_nearest_mark() -> None:
    old = Tree()
    new = Tree(model="x", engine=Engine(seats=1), store=Store(timeout_s=2))
    found = {change.key: change.restarts for change in difference(old, new)}
    assert found == {
        "model": "engine",
        "engine.seats": "engine",
        "store.timeout_s": "store and gateway",
    }
    assert live_sections(Tree) == ("roles",)


def test_the_version_does_not_depend_on_the_order() -> None:
    one = Tree(roles={"a": Role(frame="x"), "b": Role()})
    other = Tree(roles={"b": Role(), "a": Role(frame="x")})
    assert versions(one) == versions(other)
    assert version_of({"a": "1", "b": "2"}) == version_of({"b": "2", "a": "1"})


def test_a_swapped_mapping_is_a_mapping() -> None:
    held: Swapped[int] = Swapped({"a": 1})
    before = dict(held)
    held.swap({"b": 2})
    assert (before, dict(held), len(held), "b" in held, held.get("a")) == (
        {"a": 1},
        {"b": 2},
        1,
        True,
        None,
    )


class Follower:
    """A file, somebody who follows it, and what was taken over."""

    def __init__(self, path: Path) -> None:
        self.path, self.taken, self.clock = path, [], FakeClock()
        self.refuses = ""
        self.live = Live(path, self.read, take=self.take, clock=self.clock)

    def read(self, path: Path) -> Reading[Tree]:
        view = load_json(Tree, path)
        files = tuple(
            path.parent / role.frame[1:]
            for role in view.roles.values()
            if role.frame.startswith("@")
        )
        told = {}
        for name, role in view.roles.items():
            if role.frame.startswith("@"):
                file = path.parent / role.frame[1:]
                if not file.exists():
                    raise ConsiliumError(
                        "config_invalid", key=f"roles.{name}", reason="no such file"
                    )
                role = Role(frame=file.read_text())
            told[name] = role
        return Reading(view.model_copy(update={"roles": told}), files)

    def take(self, view: Tree) -> None:
        if self.refuses:
            raise ConsiliumError("config_invalid", key="roles", reason=self.refuses)
        self.taken.append({name: role.frame for name, role in view.roles.items()})


def write(path: Path, **tree: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(tree))
    new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    write(file, roles={"poet": {"frame": "Rhyme."}})
    return file


async def test_a_change_is_taken_over_once(path: Path) -> None:
    one = Follower(path)
    assert not await one.live.look()
    write(path, roles={"judge": {"frame": "Weigh."}})
    assert await one.live.look()
    assert not await one.live.look()
    assert one.taken == [{"poet": "Rhyme."}, {"judge": "Weigh."}]


async def test_a_broken_file_keeps_the_last_good_one_and_is_told_once(path) -> None:
    one = Follower(path)
    before = one.live.versions
    with structlog.testing.capture_logs() as lines:
        path.write_text("{")
        assert not await one.live.look()
        assert not await one.live.look()
        path.write_text('{"roles": {"poet": {"fram": "x"}}}')
        assert not await one.live.look()
        assert "'frame'" in one.live.refusal
        one.clock.advance(RETRY_S)
        assert not await one.live.look()  # read again, refused alike, told no more
        write(path, roles={"poet": {"frame": "Rhyme."}})
        assert not await one.live.look()
    assert [line["event"] for line in lines] == ["config_refused", "config_refused", "config_taken"]
    assert (one.live.refusal, one.live.versions) == ("", before)


async def test_a_file_that_is_gone_keeps_the_last_good_one(path) -> None:
    one = Follower(path)
    path.unlink()
    assert not await one.live.look()
    assert one.live.refusal
    assert one.live.view.roles["poet"].frame == "Rhyme."


async def test_what_the_taker_refuses_is_not_held(path: Path) -> None:
    one = Follower(path)
    one.refuses = "no"
    write(path, roles={})
    assert not await one.live.look()
    assert one.live.view.roles
    assert one.live.refusal == "roles: no"
    one.refuses = ""
    one.clock.advance(RETRY_S)
    assert await one.live.look()


async def test_files_that_belong_are_followed_too(path: Path) -> None:
    frame = path.with_name("frame.md")
    frame.write_text("Sing.")
    one = Follower(path)
    write(path, roles={"bard": {"frame": "@frame.md"}})
    assert await one.live.look()
    frame.write_text("Sing well.")
    assert await one.live.look()
    assert one.taken[-1] == {"bard": "Sing well."}


async def test_a_file_that_comes_late_is_found(path: Path) -> None:
    one = Follower(path)
    write(path, roles={"bard": {"frame": "@late.md"}})
    assert not await one.live.look()
    path.with_name("late.md").write_text("Sing.")
    one.clock.advance(RETRY_S)
    assert await one.live.look()


async def test_a_mounted_folder_that_is_exchanged_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does it: config.json -> ..data/config.json, ..data -> a folder with a date."""
    for day, frame in (("one", "Rhyme."), ("two", "Weigh.")):
        (tmp_path / day).mkdir()
        write(tmp_path / day / "config.json", roles={"poet": {"frame": frame}})
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "config.json").symlink_to("..data/config.json")
    one = Follower(tmp_path / "config.json")
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").replace(tmp_path / "..data")
    assert await one.live.look()
    assert one.taken == [{"poet": "Rhyme."}, {"poet": "Weigh."}]


async def test_looks_at_one_time_end_with_the_newest_file(path: Path) -> None:
    """The first look has read and is slow; the file changes, and a second look asks."""
    one = Follower(path)
    read, has_read, go_on = one.live._read, threading.Event(), threading.Event()

    def slow(file: Path) -> Reading[Tree]:
        reading = read(file)
        has_read.set()
        assert go_on.wait(10)
        return reading

    one.live._read = slow
    write(path, roles={"poet": {"frame": "old"}})
    first = asyncio.create_task(one.live.look())
    assert await asyncio.to_thread(has_read.wait, 10)
    write(path, roles={"poet": {"frame": "new"}})
    second = asyncio.create_task(one.live.look())
    await asyncio.sleep(0)
    go_on.set()
    assert await first
    assert await second
    assert one.taken == [{"poet": "Rhyme."}, {"poet": "old"}, {"poet": "new"}]


async def test_a_change_that_broke_on_the_way_is_tried_again(path: Path) -> None:
    one = Follower(path)
    read = one.live._read

    def broken(_: Path) -> Reading[Tree]:
        raise ZeroDivisionError

    one.live._read = broken
    write(path, roles={})
    with pytest.raises(ZeroDivisionError):
        await one.live.look()
    one.live._read = read
    assert await one.live.look()
    assert one.taken[-1] == {}


async def test_what_needs_a_restart_is_pending(path: Path) -> None:
    one = Follower(path)
    with structlog.testing.capture_logs() as lines:
        write(path, model="tiny", roles={"poet": {"frame": "Rhyme."}})
        assert not await one.live.look()
    assert one.live.pending == ("model",)
    assert [line["event"] for line in lines] == ["config_needs_restart"]


async def test_it_looks_again_and_again(path: Path) -> None:
    one = Follower(path)
    task = asyncio.create_task(one.live.run())
    write(path, roles={})
    async with asyncio.timeout(10):
        while len(one.taken) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    task.cancel()


def test_a_process_does_not_start_with_a_broken_file(path: Path) -> None:
    path.write_text("{")
    with pytest.raises(ConsiliumError) as caught:
        Follower(path)
    assert caught.value.code == "config_invalid"
