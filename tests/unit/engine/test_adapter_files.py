"""The files of adapters on one node: read through, hashed, fetched where the store is not seen."""

import asyncio
import threading
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests import made_adapters

from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterLimits
from consilium.engine.backends import adapter_cache, adapter_files
from consilium.engine.backends.adapter_files import AdapterFiles
from consilium.engine.backends.echo_slots import EchoSlots
from consilium.engine.slots import Slots
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.client import content_sha

pytestmark = pytest.mark.asyncio


class Room:
    """The router's side of FetchFiles: pieces of a folder, or less of them."""

    def __init__(self, folder):
        self.folder, self.asked, self.torn = Path(folder), 0, False

    async def files(self, _sha):
        self.asked += 1
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            raw = (self.folder / name).read_bytes()
            for at in range(0, len(raw), 5000):
                yield name, raw[at : at + 5000]
                if self.torn:
                    raise ConsiliumError("upstream_down", name="lora_router", retry_after_s=1.0)


async def verified(files, target):
    async with files.held(target) as found:
        return found


def shas(cache):
    return {one.name for one in cache.iterdir() if one.is_dir()}


@pytest.fixture
def stored(tmp_path):
    made = made_adapters.make(tmp_path / "store", 1)
    return replace(made, sha=content_sha(Path(made.path)))


async def test_files_of_the_store_are_read_where_they_are(stored, tmp_path):
    room = Room(stored.path)
    found = await verified(AdapterFiles(room, tmp_path / "cache"), stored)
    assert (replace(found, folders=()), room.asked) == (stored, 0)


async def test_other_content_is_refused(stored, tmp_path):
    file = Path(stored.path) / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ConsiliumError, match="have changed") as refused:
        await verified(AdapterFiles(Room(stored.path), tmp_path / "cache"), stored)
    assert refused.value.code == "adapter_refused"
    assert file.exists()


async def test_a_node_that_does_not_see_the_store_fetches_once(stored, tmp_path):
    room, cache = Room(stored.path), tmp_path / "cache"
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    found = await asyncio.gather(*(verified(files, far) for _ in range(5)))
    assert {one.path for one in found} == {str(cache / stored.sha)}
    assert room.asked == 1
    assert content_sha(cache / stored.sha) == stored.sha
    assert shas(cache) == {stored.sha}


async def test_nodes_of_one_engine_read_the_store_or_what_they_fetched(stored, tmp_path):
    """The node that leads may see the store where another one does not, or the other way round: both look in the same order."""
    far = replace(stored, path="/not/here")
    for one in (stored, far):
        found = await verified(AdapterFiles(Room(stored.path), tmp_path / "cache"), one)
        assert found.folders == (one.path, str(tmp_path / "cache" / stored.sha))


@pytest.mark.parametrize("cut", [0, 100, -1])
async def test_what_was_damaged_on_this_node_is_fetched_anew(stored, tmp_path, cut):
    room, cache = Room(stored.path), tmp_path / "cache"
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    file = Path((await verified(files, far)).path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert (await verified(files, far)).path == str(cache / stored.sha)
    assert room.asked == 2
    assert content_sha(cache / stored.sha) == stored.sha


async def test_a_fetch_that_breaks_off_leaves_nothing(stored, tmp_path):
    room, cache = Room(stored.path), tmp_path / "cache"
    room.torn = True
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    with pytest.raises(ConsiliumError):
        await verified(files, far)
    assert not shas(cache)
    room.torn = False
    assert (await verified(files, far)).path == str(cache / stored.sha)


async def test_fetched_content_that_is_not_what_was_asked_for_is_thrown_away(stored, tmp_path):
    other = made_adapters.make(tmp_path / "other", 2)
    cache = tmp_path / "cache"
    with pytest.raises(ConsiliumError, match="have changed"):
        await verified(AdapterFiles(Room(other.path), cache), replace(stored, path="/not/here"))
    assert not shas(cache)


class Disk:
    """Stands for the function that hashes: hangs until it is let go."""

    def __init__(self, sha):
        self.back, self.sha, self.asked = threading.Event(), sha, 0

    def content_sha(self, _folder, *, beat):
        self.asked += 1
        self.back.wait(60)
        beat()
        return self.sha


class Counted:
    def hit(self, tier): ...

    def loaded(self, tier, seconds, *, well): ...

    def state(self, **figures): ...


async def test_a_disk_that_hangs_gives_back_the_place_and_refuses_only_its_own(
    stored, tmp_path, monkeypatch
):
    """One adapter's files hang; another's do not. The desk has places for two reads at once, and neither stays taken."""
    disk = Disk(stored.sha)
    files = AdapterFiles(Room(stored.path), tmp_path / "cache", AdapterLimits(read_s=2.0))
    real = adapter_files.content_sha

    def hash_of(folder, *, beat):
        return (disk.content_sha if "dead" in str(folder) else real)(folder, beat=beat)

    monkeypatch.setattr(adapter_files, "content_sha", hash_of)
    desk = AdapterDesk(
        EchoSlots(2, 4), Slots(2, 4), files=files.held, counts=Counted(), on_alarm=pytest.fail
    )
    await desk.start()
    hung = []
    for number in range(1, 4):
        folder = tmp_path / f"dead{number}"
        folder.mkdir()
        hung.append(replace(stored, reference=f"h{number}:sha", number=number, path=str(folder)))
    desk.told([*hung, stored])
    calls = [asyncio.create_task(entered(desk, one.reference)) for one in hung]
    assert await asyncio.wait_for(entered(desk, stored.reference), 60) == stored.path
    for call in calls:
        with pytest.raises(ConsiliumError, match=r"has not answered for 2 s") as told:
            await asyncio.wait_for(call, 60)
        assert str(tmp_path) not in told.value.public()
    assert disk.asked == 3  # the second attempt of each is refused without a second thread
    assert await asyncio.wait_for(desk.settle(60), 60)
    disk.back.set()
    desk.close()


async def entered(desk, reference):
    async with desk.hold(reference) as held:
        return held.target.path


async def test_a_room_that_stops_in_the_middle_of_a_file_is_left(stored, tmp_path):
    class Stuck(Room):
        async def files(self, _sha):
            yield "adapter_config.json", b"{"
            await asyncio.Event().wait()

    files = AdapterFiles(Stuck(stored.path), tmp_path / "cache", AdapterLimits(read_s=2.0))
    with pytest.raises(ConsiliumError, match="room of adapters") as told:
        await asyncio.wait_for(verified(files, replace(stored, path="/not/here")), 60)
    assert told.value.code == "deadline"
    assert not shas(tmp_path / "cache")


# What is fetched, by bytes

MIB = 2**20


class Sized:
    """The router's side: versions of a mebibyte each; their hash is their name."""

    def __init__(self):
        self.asked = []

    async def files(self, sha):
        self.asked.append(sha)
        yield "adapter_config.json", b"{}"
        yield "adapter_model.safetensors", bytes(MIB - 2)


@pytest.fixture
def sized(stored, tmp_path, monkeypatch):
    """Return files of a node with room for three, and what fetches one."""
    monkeypatch.setattr(adapter_files, "content_sha", lambda folder, *, beat: folder.name)
    room = Sized()
    files = AdapterFiles(room, tmp_path / "cache", AdapterLimits(cache_gib=3.5 / 1024))

    def one(name, size=MIB):
        return replace(stored, sha=name * 64, path="/not/here", size_bytes=size)

    return room, files, one


async def test_what_was_used_longest_ago_makes_room_by_bytes(sized, tmp_path):
    room, files, one = sized
    for name in "abcab":
        await verified(files, one(name))
    assert room.asked == ["a" * 64, "b" * 64, "c" * 64]
    await verified(files, one("d"))
    assert shas(tmp_path / "cache") == {"a" * 64, "b" * 64, "d" * 64}
    await verified(files, one("e", 2 * MIB))
    assert shas(tmp_path / "cache") == {"d" * 64, "e" * 64}


async def test_what_is_in_use_never_goes(sized, tmp_path):
    _, files, one = sized
    async with AsyncExitStack() as stack:
        for name in "abc":
            await stack.enter_async_context(files.held(one(name)))
        with pytest.raises(ConsiliumError, match=r"engine\.adapter_cache_gib") as told:
            await verified(files, one("d"))
        assert told.value.code == "adapter_cache_full"
        assert shas(tmp_path / "cache") == {name * 64 for name in "abc"}
    await verified(files, one("d"))
    assert shas(tmp_path / "cache") == {name * 64 for name in "bcd"}


async def test_another_process_that_uses_one_keeps_it(sized, tmp_path):
    _, files, one = sized
    beside = AdapterFiles(Sized(), tmp_path / "cache", AdapterLimits(cache_gib=3.5 / 1024))
    for name in "abc":
        await verified(files, one(name))
    async with beside.held(one("a")):
        for name in "def":
            await verified(files, one(name))
        assert "a" * 64 in shas(tmp_path / "cache")


async def test_one_that_is_larger_than_the_room_for_all_pushes_nobody_out(sized, tmp_path):
    _, files, one = sized
    await verified(files, one("a"))
    with pytest.raises(ConsiliumError, match=r"needs 8\.0 MiB"):
        await verified(files, one("b", 8 * MIB))
    assert shas(tmp_path / "cache") == {"a" * 64}


async def test_a_full_disk_is_told_with_both_numbers(sized, tmp_path, monkeypatch):
    _, files, one = sized
    await verified(files, one("a"))
    usage = adapter_cache.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(adapter_cache.shutil, "disk_usage", lambda _path: usage)
    async with files.held(one("a")):
        with pytest.raises(ConsiliumError, match=r"1\.0 MiB is needed") as told:
            await verified(files, one("b"))
    assert told.value.code == "disk_full"
    await verified(files, one("b"))  # what nobody uses makes room
    assert shas(tmp_path / "cache") == {"b" * 64}


async def test_what_a_killed_process_was_fetching_is_swept_by_the_next_one(sized, tmp_path):
    _, files, one = sized
    left = tmp_path / "cache" / ".fetch-3000000-abc"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(bytes(1000))
    await verified(files, one("a"))
    assert shas(tmp_path / "cache") == {"a" * 64}


async def test_two_that_come_at_once_do_not_pass_the_limit_together(sized, tmp_path):
    _, files, one = sized
    beside = AdapterFiles(Sized(), tmp_path / "cache", AdapterLimits(cache_gib=3.5 / 1024))
    names = "abcdefgh"
    came = await asyncio.gather(
        *(verified((files, beside)[n % 2], one(name)) for n, name in enumerate(names)),
        return_exceptions=True,
    )
    assert all(getattr(each, "code", "adapter_cache_full") == "adapter_cache_full" for each in came)
    assert 1 <= len(shas(tmp_path / "cache")) <= 3
