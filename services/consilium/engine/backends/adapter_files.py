"""The files of adapters on this node: those of the store where it is seen, else fetched from the router into a folder of this node.

Each is read through before an engine loads it: its hash must be the one that the router tells, and it comes from the page cache then. A disk that does not answer holds
nobody up for longer than a bound. Knows folders and the client of the room of adapters. Does not know engines.
"""

from __future__ import annotations

import asyncio
import errno
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from consilium.engine.adapter_ports import AdapterLimits, AdapterTarget
from consilium.engine.backends.adapter_cache import GIB, AdapterCache, Hold
from consilium.engine.bounded_reads import Beat, BoundedReads
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.client import LoraRouterClient, content_sha

_log = logs.get("engine")

NAMES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class AdapterFiles:
    """The files of one node. `cache` is the folder for what is fetched."""

    def __init__(
        self, router: LoraRouterClient, cache: Path, limits: AdapterLimits | None = None
    ) -> None:
        limits = limits or AdapterLimits()
        self._router = router
        self._cache = AdapterCache(cache, int(limits.cache_gib * GIB))
        # Two disks: one that hangs leaves the other one alone.
        self._store_reads = BoundedReads(limits.read_s)
        self._cache_reads = BoundedReads(limits.read_s)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def sees(self, path: str) -> bool:
        """Say whether a folder of the store is there. Raises ConsiliumError(disk_silent)."""
        return await self._store_reads.of(path, lambda _beat: Path(path).is_dir())

    @asynccontextmanager
    async def held(self, target: AdapterTarget) -> AsyncIterator[AdapterTarget]:
        """Yield the target with the folder where its files are on this node; they have been read, are what they should be, and stay while the block runs.

        Raises ConsiliumError: adapter_refused for other content, disk_silent, adapter_cache_full, disk_full, what the router raises.
        """
        hold: Hold | None = None
        try:
            async with self._locks[target.sha]:
                if await self.sees(target.path):
                    folder = Path(target.path)
                    found = await self._hash(self._store_reads, folder)
                else:
                    hold, found = await self._fetched_right(target)
                    folder = hold.folder
            if found != target.sha:
                reason = f"The files of {target.reference} have changed since they were stored: their hash is {found[:16] or 'that of no adapter'}, not {target.sha[:16]}."
                raise ConsiliumError("adapter_refused", reason=reason, check="content_changed")
            folders = (target.path, str(self._cache.folder(target.sha)))
            yield replace(target, path=str(folder), folders=folders)
        finally:
            if hold is not None:
                hold.release()

    async def _fetched_right(self, target: AdapterTarget) -> tuple[Hold, str]:
        """Return the folder of this node and the hash of what lies there; where that is another one, or none, it lies there no more."""
        cache = self._cache
        hold = await self._cache_reads.of(cache.root, lambda _beat: cache.hold(target.sha))
        if hold is not None and await self._found_in(hold) == target.sha:
            return hold, target.sha
        hold = await self.fetched(target)  # also where what lay here was damaged
        return hold, await self._found_in(hold)

    async def _found_in(self, hold: Hold) -> str:
        """Return the hash of what lies in a folder, "" for no adapter. Where it is not what the folder's name says it is thrown away."""
        found = ""
        try:
            found = await self._hash(self._cache_reads, hold.folder)
        except ConsiliumError as error:
            if error.code == "disk_silent":
                hold.release()
                raise
            _log.warning("adapter_damaged", sha=hold.folder.name[:16], reason=error.public())
        if found != hold.folder.name:
            hold.release()
            await self._cache_reads.of(hold.folder, lambda _beat: self._cache.drop(hold.folder))
        return found

    @staticmethod
    async def _hash(reads: BoundedReads, folder: Path) -> str:
        return await reads.of(folder, lambda beat: content_sha(folder, beat=beat))

    async def fetched(self, target: AdapterTarget) -> Hold:
        """Return the folder of this node with the files of a version, fetched just now. Raises ConsiliumError: as `held`, part_failed."""
        cache, reads = self._cache, self._cache_reads
        aside = await reads.of(cache.root, lambda _beat: cache.begin(target.size_bytes))
        try:
            await self._write(target.sha, aside.folder)
            return await reads.of(cache.root, lambda _beat: cache.finish(aside, target.sha))
        except OSError as error:
            name = f"adapter {target.sha[:16]}"
            if error.errno in _FULL:
                needed = f"{target.size_bytes / 2**20:.1f} MiB"
                raise ConsiliumError(
                    "disk_full", str(error), path=str(cache.root), free="no room", needed=needed
                ) from error
            raise ConsiliumError(
                "part_failed", name=name, reason=error.strerror or str(error)
            ) from error
        finally:
            aside.release()
            await reads.of(aside.folder, lambda _beat: cache.drop(aside.folder))

    async def _write(self, sha: str, folder: Path) -> None:
        """Write what the router sends. Raises ConsiliumError(deadline) once it has sent nothing for as long as a disk may be silent."""
        files: dict[str, BinaryIO] = {}
        reads, silent_s = self._cache_reads, self._cache_reads.silent_s
        try:
            async with aclosing(self._router.files(sha)) as pieces:
                while True:
                    try:
                        async with asyncio.timeout(silent_s):
                            name, piece = await anext(pieces)
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise ConsiliumError(
                            "deadline",
                            f"no piece of {sha}",
                            name="the room of adapters",
                            seconds=silent_s,
                        ) from None
                    if name not in NAMES:
                        raise ConsiliumError(
                            "part_failed",
                            name=f"adapter {sha[:16]}",
                            reason=f"an unknown file {name!r}",
                        )
                    path = folder / name
                    if name not in files:
                        files[name] = await reads.of(path, partial(_begun, path))
                    await reads.of(path, partial(_written, files[name], piece))
        finally:
            for file in files.values():
                await reads.of(folder, partial(_closed, file))


def _begun(path: Path, _beat: Beat) -> BinaryIO:
    return path.open("xb")


def _written(file: BinaryIO, piece: bytes, _beat: Beat) -> None:
    file.write(piece)


def _closed(file: BinaryIO, _beat: Beat) -> None:
    file.close()
