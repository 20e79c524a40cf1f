"""The files of adapters on one node: read through, hashed, fetched where the store is not seen."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from tests import made_adapters

from consilium.engine.backends import adapter_files
from consilium.engine.backends.adapter_files import AdapterFiles
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


@pytest.fixture
def stored(tmp_path):
    made = made_adapters.make(tmp_path / "store", 1)
    return replace(made, sha=content_sha(Path(made.path)))


async def test_files_of_the_store_are_read_where_they_are(stored, tmp_path):
    room = Room(stored.path)
    found = await AdapterFiles(room, tmp_path / "cache").verified(stored)
    assert (replace(found, folders=()), room.asked) == (stored, 0)


async def test_other_content_is_refused(stored, tmp_path):
    file = Path(stored.path) / "adapter_model.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ConsiliumError, match="have changed") as refused:
        await AdapterFiles(Room(stored.path), tmp_path / "cache").verified(stored)
    assert refused.value.code == "adapter_refused"
    assert file.exists()


async def test_a_node_that_does_not_see_the_store_fetches_once(stored, tmp_path):
    room, cache = Room(stored.path), tmp_path / "cache"
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    found = await asyncio.gather(*(files.verified(far) for _ in range(5)))
    assert {one.path for one in found} == {str(cache / stored.sha)}
    assert room.asked == 1
    assert content_sha(cache / stored.sha) == stored.sha
    assert [one.name for one in cache.iterdir()] == [stored.sha]


async def test_nodes_of_one_engine_read_the_store_or_what_they_fetched(stored, tmp_path):
    """The node that leads may see the store where another one does not, or the other way round: both look in the same order."""
    far = replace(stored, path="/not/here")
    for one in (stored, far):
        found = await AdapterFiles(Room(stored.path), tmp_path / "cache").verified(one)
        assert found.folders == (one.path, str(tmp_path / "cache" / stored.sha))


@pytest.mark.parametrize("cut", [0, 100, -1])
async def test_what_was_damaged_on_this_node_is_fetched_anew(stored, tmp_path, cut):
    room, cache = Room(stored.path), tmp_path / "cache"
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    file = Path((await files.verified(far)).path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    assert (await files.verified(far)).path == str(cache / stored.sha)
    assert room.asked == 2
    assert content_sha(cache / stored.sha) == stored.sha


async def test_a_fetch_that_breaks_off_leaves_nothing(stored, tmp_path):
    room, cache = Room(stored.path), tmp_path / "cache"
    room.torn = True
    files, far = AdapterFiles(room, cache), replace(stored, path="/not/here")
    with pytest.raises(ConsiliumError):
        await files.verified(far)
    assert not list(cache.iterdir())
    room.torn = False
    assert (await files.verified(far)).path == str(cache / stored.sha)


async def test_fetched_content_that_is_not_what_was_asked_for_is_thrown_away(stored, tmp_path):
    other = made_adapters.make(tmp_path / "other", 2)
    cache = tmp_path / "cache"
    with pytest.raises(ConsiliumError, match="have changed"):
        await AdapterFiles(Room(other.path), cache).verified(replace(stored, path="/not/here"))
    assert not list(cache.iterdir())


async def test_what_was_used_longest_ago_makes_room(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(adapter_files, "KEPT", 2)
    files = AdapterFiles(Room(stored.path), tmp_path / "cache")
    for name in ("a" * 64, "b" * 64, "c" * 64):
        await files.fetched(name)
        await asyncio.sleep(0.02)
    assert {one.name[0] for one in (tmp_path / "cache").iterdir()} == {"b", "c"}
