"""Adapters of a few bytes, and a library over a real folder and a real SQLite file, for tests of what is stored."""

import hashlib
from contextlib import asynccontextmanager

from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.backends.registry import SqliteRegistry
from consilium.lora_router.incoming import Limits
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Described
from consilium.lora_router.store import DAMAGED, FILES, Store


def write_adapter(folder, mark, size=4096):
    """Write two files whose content is told by `mark`; the checks have tests of their own, so here they need not be tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(f'{{"mark": "{mark}"}}')
    (folder / "adapter_model.safetensors").write_bytes((mark.encode() * size)[:size])
    return folder


def describe(folder):
    """Return what a folder says: its hash, and a size."""
    digest, size = hashlib.sha256(), 0
    for name in FILES:
        content = (folder / name).read_bytes()
        digest.update(content)
        size += len(content)
    return Described(digest.hexdigest(), 8, size, {}, base="tiny")


@asynccontextmanager
async def opened(root, limits=None, clock=None):
    """Yield a library over a folder."""
    store = Store(root / "store")
    registry = await SqliteRegistry.open(root / "registry.db", store.folder)
    library = await Library(
        store, registry, limits or Limits(), describe, clock=clock or SystemClock()
    ).open()
    try:
        yield library
    finally:
        await library.aclose()


def in_store(root):
    """Return the hashes of the folders in the store, and the bytes of every file below it."""
    store = root / "store"
    files = [path for path in store.rglob("*") if path.is_file() and DAMAGED not in path.parts]
    shas = {folder.name for shelf in store.glob("??") for folder in shelf.iterdir()}
    return shas, sum(path.stat().st_size for path in files)


def assert_same(root, library):
    """What is registered lies in the store, whole, and nothing else does."""
    shas, size = in_store(root)
    assert shas == set(library.holdings.files()) - set(library.damaged)
    assert size == library.stored_bytes
    for version in library.versions():
        assert describe(version.path).sha == version.sha
        assert sorted(path.name for path in version.path.iterdir()) == sorted(FILES)
    for said in library.names():
        assert not said.current or said.current in library.holdings.of(said.name)


async def refused(awaitable):
    """Return the error that something raises."""
    try:
        await awaitable
    except ConsiliumError as err:
        return err
    raise AssertionError("it was not refused")
