"""The library with the room's own checks: what is stored is what was checked, sums too, and random work keeps store and registry the same."""

import random

import pytest
from tests.component.lora_router.shelves import (
    assert_same,
    in_store,
    opened,
    refused,
    write_adapter,
)
from tests.unit.lora_router import made

from consilium.kernel.clock import FakeClock, SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, composition
from consilium.lora_router.backends.registry import SqliteRegistry
from consilium.lora_router.identity import reference, sum_sha
from consilium.lora_router.incoming import Incoming, Limits
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Placement
from consilium.lora_router.store import Store

OPERATIONS = 400


@pytest.fixture
async def library(tmp_path):
    store = Store(tmp_path / "store")
    registry = await SqliteRegistry.open(tmp_path / "registry.db", store.folder)
    found = await Library(
        store,
        registry,
        Limits(),
        adapter_files.describe,
        clock=SystemClock(),
        content_sha=adapter_files.content_sha,
    ).open()
    yield found
    await found.aclose()


async def test_what_is_stored_was_checked(library, tmp_path):
    version = await library.add(Incoming("sport", made.write(tmp_path / "a")))
    assert (version.rank, version.is_3d, version.base) == (8, False, "Qwen/Qwen3-tiny")
    assert adapter_files.content_sha(version.path) == version.sha
    same = made.write(tmp_path / "b", lora_dropout=0.5)
    assert (await library.add(Incoming("sport", same))) == version, "its meaning is the same"
    other = await library.add(Incoming("sport", made.write(tmp_path / "c", lora_alpha=32)))
    assert other.sha != version.sha
    error = await refused(library.add(Incoming("sport", made.write(tmp_path / "d", use_dora=True))))
    assert error.code == "adapter_refused"
    assert in_store(tmp_path)[0] == {version.sha, other.sha}


async def test_a_sum_is_stored_under_its_content_and_found_by_its_parts(library, tmp_path):
    one = await library.add(Incoming("core", made.write(tmp_path / "a")))
    two = await library.add(
        Incoming("sport", made.write(tmp_path / "b", made.factors(made.modules(), seed=2)))
    )
    terms = [composition.Term(one.path, 1.0), composition.Term(two.path, 0.7)]
    (tmp_path / "sum").mkdir()
    composition.compose(terms, tmp_path / "sum")
    address = sum_sha([(one.sha, 1.0), (two.sha, 0.7)])
    parts = [(reference("core", one.sha), 1.0), (reference("sport", two.sha), 0.7)]
    stored = await library.add_sum(address, parts, tmp_path / "sum")
    assert stored.rank == 16
    assert library.find_sum(address) == stored
    assert await library.verify(reference("mix", stored.sha)) == stored
    file = stored.path / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes(content)
    error = await refused(library.verify(reference("mix", stored.sha)))
    assert error.code == "data_damaged"


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_work_keeps_store_and_registry_the_same(tmp_path, seed):
    rng, clock = random.Random(seed), FakeClock()
    marks = [write_adapter(tmp_path / "from" / str(n), f"{n}", 200) for n in range(12)]
    limits = Limits(keep_versions=2, store_bytes=1200)
    done = {"full": 0}

    async def work(library):
        clock.unix += 1
        name = rng.choice("abcde")
        versions = list(library.holdings.of(name))
        match rng.choice(["add", "add", "add", "alias", "switch", "place", "remove", "sum", "old"]):
            case "add":
                await library.add(Incoming(name, rng.choice(marks)))
            case "alias":
                await library.add(Incoming(name, marks[0], make_current=True))
            case "switch" if versions:
                await library.switch(name, rng.choice(versions))
            case "place" if versions:
                await library.place(name, rng.choice(list(Placement)))
            case "remove" if versions:
                await library.remove(name)
            case "old" if versions:
                await library.remove(f"{name}:{rng.choice(versions)}")
            case "sum" if versions:
                folder = write_adapter(tmp_path / "sum", f"s{rng.randrange(9)}", 150)
                part = (reference(name, rng.choice(versions)), 0.5)
                await library.add_sum(f"{rng.randrange(9)}" * 64, [part], folder)

    for _ in range(4):
        async with opened(tmp_path / "r", limits, clock) as library:
            for _ in range(OPERATIONS // 4):
                try:
                    await work(library)
                except ConsiliumError as err:
                    if err.code not in {"conflict", "adapter_store_full"}:
                        raise
                    done["full"] += err.code == "adapter_store_full"
                assert library.stored_bytes <= limits.store_bytes
            assert_same(tmp_path / "r", library)
            before = library.holdings
        async with opened(tmp_path / "r", limits, clock) as library:
            assert library.holdings == before
    assert done["full"], "the store was never full: nothing was tried"
