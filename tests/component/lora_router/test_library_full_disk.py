"""A disk that is truly full, in a name space of its own: the add is refused, what was stored stays, nothing is left over, and there is room again after a removal."""

import shutil
import subprocess
import sys

import pytest

FULL = """
import asyncio, sys
from pathlib import Path
from tests.component.lora_router.shelves import assert_same, in_store, opened, refused, write_adapter
from consilium.lora_router.incoming import Incoming

SIZE = 1_500_000

async def main(folder, source):
    write_adapter(source, "x", SIZE)
    stored = []
    async with opened(folder) as library:
        while len(stored) < 20:
            (source / "adapter_config.json").write_text(str(len(stored)))
            try:
                stored.append(await library.add(Incoming(f"a{len(stored)}", source)))
            except Exception as err:
                assert getattr(err, "code", err) == "disk_full", err
                break
        assert 3 < len(stored) < 20, len(stored)
        assert_same(folder, library)
        assert len(library.names()) == len(stored)
        (folder / "ballast").write_bytes(b"")
        try:  # the registry's own disk is full as well
            with (folder / "ballast").open("ab") as file:
                while True:
                    file.write(b"x" * 4096); file.flush()
        except OSError:
            pass
        write_adapter(source, "y", 10)
        error = await refused(library.add(Incoming("small", source)))
        assert error.code == "disk_full", error
        assert_same(folder, library)
        (folder / "ballast").unlink()
        await library.remove("a0")
        await library.add(Incoming("small", source))
        assert_same(folder, library)
    async with opened(folder) as library:
        assert_same(folder, library)
        print("nothing lost of", len(stored))

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="no name spaces here, in which a small disk could be mounted",
)
def test_a_disk_that_is_truly_full(tmp_path):
    small, source = tmp_path / "small", tmp_path / "source"
    small.mkdir()
    mount = f'mount -t tmpfs -o size=9m none {small} && exec {sys.executable} -c "$0" {small} {source}'  # fmt: skip
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, FULL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing lost of" in done.stdout
