"""What a library finds at its start that is not as it was left: strange files, files that are gone, cut or changed."""

import errno
import shutil
from dataclasses import replace

import pytest
from tests.component.lora_router.shelves import assert_same, opened, refused

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.identity import reference, sum_sha
from consilium.lora_router.incoming import Incoming
from consilium.lora_router.ports import Proof


async def test_files_are_hashed_again_and_adding_mends_them(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a")))
        assert await library.verify("sport") == version
        file = version.path / "adapter_model.safetensors"
        content = bytearray(file.read_bytes())
        content[7] ^= 1
        file.write_bytes(content)
        assert (await refused(library.verify("sport"))).code == "data_damaged"
        assert await library.add(Incoming("sport", folder("a"))) == version
        assert await library.verify("sport") == version
        assert_same(root, library)


async def test_a_version_whose_files_are_gone_answers_nobody_until_it_is_added_again(root, folder):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a"), origin="/loras/sport"))
        kept = await library.add(Incoming("core", folder("b")))
        await library.judge("sport", lambda version: replace(version, proof=Proof.OK))
    shutil.rmtree(version.path)
    (root / "store" / "stray").mkdir()
    (root / "store" / "stray" / "x").write_text("x")
    async with opened(root) as library:
        assert_same(root, library)
        assert library.find("core") == kept
        with pytest.raises(ConsiliumError) as caught:
            library.find("sport")
        assert "Add it again" in caught.value.public()
        assert [one.proof for one in library.get("sport")[1]] == [Proof.DAMAGED]
        assert version.sha not in {one.sha for one in library.versions()}
        assert library.holdings.names["sport"].origin == "", "the configuration reads it again"
        again = await library.add(Incoming("sport", folder("a")))
        assert library.find("sport").sha == again.sha == version.sha
        assert library.find("sport").proof is Proof.OK, "the same content was tried"
        assert not library.damaged
        assert_same(root, library)


@pytest.mark.parametrize("stray", [".nfs0000abcd", ".DS_Store", "adapter_config.json.bak", "deep"])
async def test_a_stray_file_beside_a_version_goes_and_the_version_stays(root, folder, stray):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a")))
    if stray == "deep":
        (version.path / stray / "er").mkdir(parents=True)
        (version.path / stray / "er" / "x").write_text("x")
    else:
        (version.path / stray).write_text("x")
        (version.path.parent / stray).write_text("x")
    async with opened(root) as library:
        assert library.find("sport") == version
        assert not library.damaged
        assert_same(root, library)


async def test_a_stray_file_that_cannot_be_deleted_stays(root, folder, monkeypatch):
    async with opened(root) as library:
        version = await library.add(Incoming("sport", folder("a")))
    (version.path / ".nfs0000abcd").write_text("x")

    def busy(path, *_args, **_more):
        raise OSError(errno.EBUSY, "Device or resource busy", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", busy)
        async with opened(root) as library:
            assert library.find("sport") == version
            assert await library.verify("sport") == version


async def test_what_is_registered_and_not_whole_is_moved_aside_and_never_deleted(root, folder):
    async with opened(root) as library:
        cut = await library.add(Incoming("cut", folder("a")))
        half = await library.add(Incoming("half", folder("b")))
        whole = await library.add(Incoming("whole", folder("c")))
        parts = ((reference("whole", whole.sha), 0.5),)
        made = await library.add_sum(sum_sha([(whole.sha, 0.5)]), parts, folder("s"))
    (cut.path / "adapter_model.safetensors").write_bytes(b"short")
    (half.path / "adapter_config.json").unlink()
    (made.path / "adapter_config.json").unlink()
    for _ in range(2):  # a second start finds what the first one has left
        async with opened(root) as library:
            assert set(library.damaged) == {cut.sha, half.sha}
            assert str(root / "store" / ".damaged" / cut.sha) in library.damaged[cut.sha]
            assert_same(root, library)
            with pytest.raises(ConsiliumError) as caught:
                library.find(f"cut:{cut.sha[:8]}")
            assert "Add it again" in caught.value.public()
            assert library.find("whole") == whole
            assert library.find_sum(sum_sha([(whole.sha, 0.5)])) is None, "it is made again"
        kept = {
            path.name.partition("-")[0]: path for path in (root / "store" / ".damaged").iterdir()
        }
        assert set(kept) == {cut.sha, half.sha, made.sha}
        assert (kept[half.sha] / "adapter_model.safetensors").read_bytes() == b"b" * 4096
    async with opened(root) as library:
        await library.add(Incoming("cut", folder("a")))
        assert library.find("cut").sha == cut.sha
        await library.remove("half")
        assert not library.damaged
        assert_same(root, library)
