"""The adapters of the configuration come into the library, from folders and from a hub."""

import shutil
import threading

import pytest
from tests.component.demo.test_hub import Hub
from tests.component.lora_router.shelves import assert_same, describe, opened, write_adapter

from consilium.demo import hub
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.configured import entry, take_in
from consilium.lora_router.incoming import Incoming
from consilium.lora_router.ports import Placement, Registered
from consilium.lora_router.sources import fetched, forget


@pytest.fixture
def fetch(tmp_path):
    return lambda path: fetched(path, tmp_path / "downloads")


def entries(**paths):
    return {
        name: entry(Registered(name, "", from_config=True), str(path))
        for name, path in paths.items()
    }


async def test_what_is_configured_is_stored_once_and_again_when_it_changes(tmp_path, fetch):
    source = write_adapter(tmp_path / "sport", "a")
    wanted = entries(sport=source, gone=tmp_path / "gone")
    async with opened(tmp_path / "r") as library:
        first = await take_in(library, wanted, fetch)
        assert (first.stored, first.switch, first.remove) == (("sport",), (), ())
        assert first.refused["gone"].fields["check"] == "not_found"
        old = library.find("sport")
        assert old.sha == describe(source).sha
        assert library.get("sport")[0].from_config
        assert (await take_in(library, wanted, fetch)).stored == ()
    async with opened(tmp_path / "r") as library:
        assert (await take_in(library, wanted, fetch)).stored == ()
        write_adapter(source, "b")
        changed = await take_in(library, wanted, fetch)
        new = describe(source).sha
        assert (changed.stored, changed.switch) == (("sport",), (("sport", new),))
        assert library.find("sport") == old, "it answers until every engine has the new one"
        await library.switch("sport", new)
        assert (await take_in(library, {}, fetch)).remove == ("sport",)
        await library.remove("sport", from_config=True)
        assert_same(tmp_path / "r", library)


async def test_settings_are_taken_over_and_the_clis_placement_stays(tmp_path, fetch):
    source = write_adapter(tmp_path / "sport", "a")
    async with opened(tmp_path / "r") as library:
        await take_in(library, entries(sport=source), fetch)
        await library.place("sport", Placement.VRAM)
        await take_in(library, entries(sport=source), fetch)
        assert library.get("sport")[0].placement is Placement.VRAM
        said = Registered("sport", "", from_config=True, domain="running", placement=Placement.SSD)
        await take_in(library, {"sport": entry(said, str(source))}, fetch)
        now = library.get("sport")[0]
        assert (now.domain, now.placement) == ("running", Placement.SSD)
        assert library.find("sport").sha == now.current


async def test_the_configuration_takes_over_a_name_of_the_cli(tmp_path, fetch):
    async with opened(tmp_path / "r") as library:
        old = await library.add(Incoming("sport", write_adapter(tmp_path / "cli", "a")))
        outcome = await take_in(
            library, entries(sport=write_adapter(tmp_path / "sport", "b")), fetch
        )
        assert library.get("sport")[0].from_config
        assert library.find("sport") == old
        assert len(outcome.switch) == 1


async def test_a_folder_that_is_gone_for_a_while_takes_nothing_away(tmp_path, fetch):
    source = write_adapter(tmp_path / "sport", "a")
    async with opened(tmp_path / "r") as library:
        await take_in(library, entries(sport=source), fetch)
        shutil.rmtree(source)
        outcome = await take_in(library, entries(sport=source), fetch)
        assert set(outcome.refused) == {"sport"}
        assert outcome.remove == ()
        assert library.find("sport")


@pytest.fixture
def server(tmp_path):
    source = write_adapter(tmp_path / "hub", "h", 100_000)
    (source / "adapter_model.bin").write_bytes(b"pickle")
    with Hub(source) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


async def test_an_adapter_of_the_hub_is_downloaded_once_with_reports(tmp_path, server):
    access, steps = hub.Access(endpoint=server.url, cache_dir=tmp_path / "cache"), []

    def fetch(path):
        return fetched(path, tmp_path / "downloads", steps.append, access=access)

    async with opened(tmp_path / "r") as library:
        outcome = await take_in(
            library,
            entries(sport="org/tiny"),
            fetch,
            lambda path: forget(path, tmp_path / "downloads"),
        )
        assert outcome.stored == ("sport",)
        assert library.find("sport").size_bytes == 100_000 + len('{"mark": "h"}')
        assert {name for name, _ in server.ranges} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        loading = [step for step in steps if step.total]
        assert loading[-1].done == loading[-1].total
        assert not (tmp_path / "downloads" / "hub" / "org--tiny").exists(), "it is stored now"
        server.ill = True
        assert (await take_in(library, entries(sport="org/tiny"), fetch)).refused == {}
        assert library.holdings.names["sport"].origin == "org/tiny"
        again = await take_in(library, entries(sport="org/tiny@v1"), fetch)
        assert set(again.refused) == {"sport"}, "another revision is another origin"
        assert library.find("sport")


def test_a_repository_that_is_no_adapter(tmp_path, server):
    access = hub.Access(endpoint=server.url, cache_dir=tmp_path / "cache")
    del server.files["adapter_config.json"]
    with pytest.raises(ConsiliumError) as caught:
        fetched("org/tiny", tmp_path / "downloads", access=access)
    assert caught.value.code == "adapter_refused"
    assert "no adapter_config.json" in caught.value.public()
    server.files = {"adapter_model.bin": b"pickle"}
    with pytest.raises(ConsiliumError) as caught:
        fetched("org/tiny", tmp_path / "downloads", access=access)
    assert ".bin" in caught.value.public()
