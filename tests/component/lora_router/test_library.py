"""The library of adapters on a real disk and a real SQLite file."""

import asyncio
import os
import threading
from dataclasses import replace

import pytest
from tests.component.lora_router.shelves import (
    assert_same,
    describe,
    in_store,
    opened,
    refused,
)

from consilium.kernel.clock import FakeClock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.identity import lora_int_id, reference, sum_sha
from consilium.lora_router.incoming import Incoming, Limits
from consilium.lora_router.ports import Placement, Proof, Registered, Trial, Uses

ADAPTER_BYTES = 4096 + len('{"mark": "a"}')


async def test_an_adapter_is_stored_under_its_hash_and_found_by_name(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a")))
        assert version.sha == describe(folder("a")).sha
        assert version.path == root / "store" / version.sha[:2] / version.sha
        assert version.lora_int_id == lora_int_id(version.sha)
        assert version.proof is Proof.UNPROVEN
        assert version.size_bytes == ADAPTER_BYTES
        for text in ("sport", f"sport:{version.sha[:4]}", reference("sport", version.sha)):
            assert library.find(text) == version
        said, versions = library.get("sport")
        assert said.current == version.sha
        assert versions == (version,)
        assert library.stored_bytes == ADAPTER_BYTES
        assert_same(root, library)


async def test_what_was_stored_is_there_after_a_restart(root, folder):
    said = Registered(
        "sport",
        "",
        Placement.VRAM,
        with_core="core",
        core_weight=0.5,
        weight=0.7,
        executors=("core",),
        domain="бег и сила",
        examples=("How do I recover?",),
        triggers=("<|sport|>",),
        threshold=0.4,
    )
    async with opened(root) as library:
        await library.add(Incoming("core", folder("c")))
        version = await library.add(
            Incoming("sport", folder("a"), said, origin="/loras/sport", entry="{}")
        )
        text = reference("sport", version.sha)
        found = {
            "proof": Proof.OK,
            "proof_json": '{"delta": 1.5}',
            "fingerprint": "f1",
            "trials": {"r1": Trial(Proof.OK, "f1")},
        }
        await library.judge(text, lambda version: replace(version, **found))
        await library.count({text: Uses(3, 2, 1, 17.0), "gone:abcd": Uses(1)})
        await library.count({text: Uses(1, 0, 0, 16.0)})
        before = library.holdings
    async with opened(root) as library:
        assert library.holdings == before
        assert library.get("sport")[0] == replace(said, current=version.sha)
        assert library.find("sport").proof is Proof.OK
        assert library.find("sport").fingerprint == "f1"
        assert library.uses("sport") == Uses(4, 2, 1, 17.0)
        assert library.holdings.names["sport"].origin == "/loras/sport"
        assert_same(root, library)


async def test_the_same_content_twice_is_one_version(root, folder):
    async with opened(root) as library:
        first = await library.add(Incoming("sport", folder("a")))
        assert await library.add(Incoming("sport", folder("a"))) == first
        assert in_store(root) == ({first.sha}, ADAPTER_BYTES)


async def test_a_second_name_shares_the_files_and_has_its_own_number(root, folder):
    async with opened(root) as library:
        first = await library.add(Incoming("sport", folder("a")))
        second = await library.add(Incoming("fitness", folder("a")))
        assert second.path == first.path
        assert second.lora_int_id != first.lora_int_id
        assert library.stored_bytes == ADAPTER_BYTES
        await library.remove("sport")
        assert library.find("fitness") == second
        assert_same(root, library)
        await library.remove("fitness")
        assert in_store(root) == (set(), 0)


async def test_two_adds_of_one_name_at_once(root, folder):
    async with opened(root) as library:
        one, other, again = await asyncio.gather(
            library.add(Incoming("sport", folder("a"))),
            library.add(Incoming("sport", folder("b"))),
            library.add(Incoming("sport", folder("a"))),
        )
        assert one == again
        assert library.find("sport") in (one, other)
        assert len(library.get("sport")[1]) == 2
        assert_same(root, library)


async def test_a_new_version_answers_when_it_is_switched_to(root, folder):
    async with opened(root) as library:
        old = await library.add(Incoming("sport", folder("a")))
        new = await library.add(Incoming("sport", folder("b")))
        assert library.find("sport") == old
        await library.switch("sport", new.sha[:6])
        assert library.find("sport") == new
        assert library.find(f"sport:{old.sha[:8]}") == old
        forced = await library.add(Incoming("sport", folder("c"), make_current=True))
        assert library.find("sport") == forced


async def test_an_untried_version_may_be_held_back(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a"), make_current=False))
        with pytest.raises(ConsiliumError) as caught:
            library.find("sport")
        assert caught.value.code == "conflict"
        assert f"switch sport {version.sha[:12]} --force" in caught.value.public()
        await library.switch("sport", version.sha)
        assert library.find("sport") == version


async def test_old_versions_go_but_for_those_in_use(root, folder):
    clock = FakeClock()
    async with opened(root, Limits(keep_versions=2), clock) as library:
        stored = []
        for mark in "abcdef":
            clock.unix += 1
            stored.append(await library.add(Incoming("sport", folder(mark))))
            library.is_busy = lambda text: text == reference("sport", stored[1].sha)
        kept = {version.sha for version in library.get("sport")[1]}
        assert kept == {stored[n].sha for n in (0, 1, 4, 5)}, "current, busy, and the two newest"
        library.is_busy = lambda _text: False
        await library.switch("sport", stored[5].sha)
        assert {v.sha for v in library.get("sport")[1]} == {stored[4].sha, stored[5].sha}
        assert_same(root, library)


async def test_an_unknown_name_is_told_with_the_nearest(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("physiology", folder("a")))
        for text, nearest in (
            ("phisiology", "physiology"),
            ("physiology:0000", f"physiology:{version.sha[:12]}"),
            ("mix:0000", ""),
            ("zzz", ""),
        ):
            with pytest.raises(ConsiliumError) as caught:
                library.find(text)
            assert caught.value.code == "adapter_unknown", text
            assert caught.value.fields.get("nearest", "") == nearest
        with pytest.raises(ConsiliumError) as caught:
            library.find("../etc")
        assert caught.value.code == "invalid_request"


@pytest.mark.parametrize("name", ["mix", "", "Sport", "a/b", "..", "a" * 64, "é"])
async def test_a_name_that_may_not_be(root, folder, name):
    async with opened(root) as library:
        assert (await refused(library.add(Incoming(name, folder("a"))))).code == "invalid_request"


async def test_a_sum_is_cached_by_its_address_and_goes_with_its_parts(root, folder):
    async with opened(root) as library:
        core = await library.add(Incoming("core", folder("a")))
        sport = await library.add(Incoming("sport", folder("b")))
        parts = (
            (reference("core", core.sha), 1.0),
            (reference("sport", sport.sha), 0.7),
        )
        address = sum_sha([(core.sha, 1.0), (sport.sha, 0.7)])
        made = await library.add_sum(address, parts, folder("s"))
        assert library.find_sum(address) == made
        assert made.parts == parts
        assert library.find(reference("mix", address)) == made
        assert library.find(reference("mix", made.sha)) == made
        assert await library.add_sum(address, parts, folder("s")) == made
        assert [said.name for said in library.names()] == ["core", "sport"]
        async with asyncio.timeout(60):
            gone = await library.remove("sport")
        assert set(gone) == {reference("sport", sport.sha), reference("mix", made.sha)}
        assert library.find_sum(address) is None
        assert_same(root, library)


async def test_no_sum_of_what_is_being_removed(root, folder):
    async with opened(root) as library:
        core = await library.add(Incoming("core", folder("a")))
        part = (reference("core", core.sha), 0.5)
        await library.hide("core")
        error = await refused(library.add_sum("1" * 64, [part], folder("s")))
        assert error.code == "concurrent_change"
        await library.remove("core")
        error = await refused(library.add_sum("1" * 64, [part], folder("s")))
        assert error.code == "concurrent_change"
        assert in_store(root) == (set(), 0)


async def test_an_adapter_over_the_limit_is_refused(root, folder):
    async with opened(root, Limits(adapter_bytes=1000)) as library:
        error = await refused(library.add(Incoming("sport", folder("a"))))
        assert (error.code, error.fields["check"]) == ("adapter_refused", "too_large")
        assert in_store(root) == (set(), 0)


async def test_files_that_change_between_check_and_copy_are_refused(root, folder):
    async with opened(root) as library:
        described = describe(folder("a"))
        source = folder("a")
        (source / "adapter_model.safetensors").write_bytes(b"another content")
        error = await refused(library.add(Incoming("sport", source, described=described)))
        assert error.fields["check"] == "changed_meanwhile"
        assert in_store(root) == (set(), 0)


async def test_links_and_what_is_no_file_are_refused(root, folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    async with opened(root) as library:
        makers = (lambda path: path.symlink_to(secret), os.mkfifo, os.mkdir)
        for number, make in enumerate(makers):
            source = folder(f"l{number}")
            file = source / "adapter_config.json"
            file.unlink()
            make(file)
            error = await refused(library.add(Incoming("sport", source)))
            assert error.fields["check"] == "file_is_no_plain_file"
        (folder("m") / "adapter_config.json").unlink()
        error = await refused(library.add(Incoming("sport", tmp_path / "from" / "m")))
        assert error.fields["check"] == "file_missing"
        assert in_store(root) == (set(), 0)


async def test_only_the_configuration_changes_what_it_holds(root, folder):
    async with opened(root) as library:
        said = Registered("sport", "", from_config=True)
        await library.add(Incoming("sport", folder("a"), said))
        assert (await refused(library.add(Incoming("sport", folder("b"))))).code == "conflict"
        error = await refused(library.remove("sport"))
        assert "take adapters.sport out of it" in error.public()
        assert await library.remove("sport", from_config=True)
        assert in_store(root) == (set(), 0)


async def test_a_core_stays_while_another_one_leans_on_it(root, folder):
    async with opened(root) as library:
        await library.add(Incoming("core", folder("a")))
        await library.add(Incoming("sport", folder("b"), Registered("sport", "", with_core="core")))
        assert "core of sport" in (await refused(library.remove("core"))).public()
        await library.remove("sport")
        await library.remove("core")
        assert library.names() == ()


async def test_the_version_that_answers_is_not_removed_alone(root, folder):
    async with opened(root) as library:
        old = await library.add(Incoming("sport", folder("a")))
        new = await library.add(Incoming("sport", folder("b")))
        error = await refused(library.remove(f"sport:{old.sha[:8]}"))
        assert error.code == "conflict"
        assert await library.remove(f"sport:{new.sha[:8]}") == (reference("sport", new.sha),)
        assert_same(root, library)


async def test_what_is_hidden_is_not_found_and_comes_back(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a")))
        seen = []
        library.changed = lambda: seen.append(len(library.versions()))
        hidden = await library.hide("sport")
        assert hidden == (reference("sport", version.sha),)
        assert library.names() == ()
        for text in ("sport", f"sport:{version.sha[:6]}"):
            with pytest.raises(ConsiliumError) as caught:
                library.find(text)
            assert caught.value.code == "adapter_unknown"
        library.unhide(hidden)
        assert library.find("sport") == version
        await library.hide("sport")
        error = await refused(library.add(Incoming("sport", folder("b"))))
        assert (error.code, error.row.retry) == ("concurrent_change", True)
        await library.remove("sport")
        assert seen[:2] == [0, 1]
        assert not library.holdings.hidden
        again = await library.add(Incoming("sport", folder("a")))
        assert library.find("sport") == again


async def test_an_add_goes_on_when_whoever_asked_has_left(root, folder):
    held, go = threading.Event(), threading.Event()

    async with opened(root) as library:

        def slowly(path):
            held.set()
            assert go.wait(10)
            return describe(path)

        library._describe = slowly
        adding = asyncio.ensure_future(library.add(Incoming("sport", folder("a"))))
        await asyncio.to_thread(held.wait, 10)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        go.set()
    async with opened(root) as library:
        assert library.find("sport").sha == describe(folder("a")).sha
        assert_same(root, library)


async def test_two_contents_with_one_number_are_refused(root, folder, monkeypatch):
    monkeypatch.setattr("consilium.lora_router.holdings.lora_int_id", lambda _sha: 7)
    async with opened(root) as library:
        await library.add(Incoming("sport", folder("a")))
        error = await refused(library.add(Incoming("other", folder("b"))))
        assert error.fields["check"] == "int_id_taken"
        assert_same(root, library)


async def test_many_adapters_are_read_at_the_start(root, folder):
    async with opened(root) as library:
        source = folder("a")
        for number in range(200):
            (source / "adapter_config.json").write_text(f'{{"n": {number}}}')
            await library.add(Incoming(f"a{number}", source))
    async with opened(root) as library:
        assert len(library.names()) == 200
        assert_same(root, library)
