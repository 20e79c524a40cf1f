"""The files of adapters on this node: those of the store where it is seen, else fetched from the router into a folder of this node.

Each is read through before an engine loads it: its hash must be the one that the router tells, and it comes from the page cache then. Knows folders and the
client of the room of adapters. Does not know engines.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from consilium.engine.adapter_desk import AdapterTarget
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.client import LoraRouterClient, content_sha

_log = logs.get("engine")

KEPT: Final = 64
"""Fetched adapters that a node keeps; those used longest ago go."""
LEFT_S: Final = 7200.0
"""A fetch that has not gone on for so long is over."""
NAMES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})


class AdapterFiles:
    """The files of one node. `cache` is the folder for what is fetched."""

    def __init__(self, router: LoraRouterClient, cache: Path) -> None:
        self._router, self._cache = router, cache
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @staticmethod
    def sees(path: str) -> bool:
        """Say whether a folder of the store is there."""
        return Path(path).is_dir()

    async def verified(self, target: AdapterTarget) -> AdapterTarget:
        """Return the target with the folder where its files are on this node; they have been read, and are what they should be.

        Raises ConsiliumError: adapter_refused for other content, what the router raises, disk_full.
        """
        cached = self._cache / target.sha
        async with self._locks[target.sha]:
            if await asyncio.to_thread(self.sees, target.path):
                folder = Path(target.path)
                found = await asyncio.to_thread(content_sha, folder)
            else:
                had = await asyncio.to_thread(cached.is_dir)
                folder, found = await self._fetched_right(target.sha)
                if had and found != target.sha:  # what lay here was damaged: it is fetched anew
                    folder, found = await self._fetched_right(target.sha)
        if found != target.sha:
            reason = f"The files of {target.reference} have changed since they were stored: their hash is {found[:16]}, not {target.sha[:16]}."
            raise ConsiliumError("adapter_refused", reason=reason, check="content_changed")
        return replace(target, path=str(folder), folders=(target.path, str(cached)))

    async def _fetched_right(self, sha: str) -> tuple[Path, str]:
        """Return the folder of this node and the hash of what lies there; where that is another one, or none, it lies there no more."""
        folder, found = await self.fetched(sha), ""
        try:
            found = await asyncio.to_thread(content_sha, folder)
        except ConsiliumError as error:
            _log.warning("adapter_damaged", sha=sha[:16], reason=error.public())
        finally:
            if found != sha:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        return folder, found

    async def fetched(self, sha: str) -> Path:
        """Return the folder of this node with the files of a version; they are fetched if they are not there. Raises what the router raises."""
        folder = self._cache / sha
        if await asyncio.to_thread(_touched, folder):
            return folder
        aside = await asyncio.to_thread(self._begun)
        try:
            await self._write(sha, aside)
            await asyncio.to_thread(_moved, aside, folder)
        except OSError as error:
            raise ConsiliumError(
                "part_failed", name=f"adapter {sha[:16]}", reason=error.strerror or str(error)
            ) from error
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)
        return folder

    def _begun(self) -> Path:
        """Return a new folder beside the others, after making room for it."""
        self._cache.mkdir(parents=True, exist_ok=True)
        self._sweep()
        return Path(tempfile.mkdtemp(prefix=".fetch-", dir=self._cache))

    async def _write(self, sha: str, folder: Path) -> None:
        files = {name: (folder / name).open("xb") for name in sorted(NAMES)}
        try:
            async for name, piece in self._router.files(sha):
                if name not in files:
                    raise ConsiliumError(
                        "part_failed",
                        name=f"adapter {sha[:16]}",
                        reason=f"an unknown file {name!r}",
                    )
                await asyncio.to_thread(files[name].write, piece)
        finally:
            for file in files.values():
                file.close()

    def _sweep(self) -> None:
        """Let go of what was used longest ago. Engines have it in memory, and fetch it again when they need it."""
        there = [one for one in self._cache.iterdir() if one.is_dir()]
        for one in [one for one in there if one.name[0] == "."]:
            there.remove(one)
            with suppress(OSError):  # its process was killed while it fetched
                if one.stat().st_mtime < time.time() - LEFT_S:
                    shutil.rmtree(one, ignore_errors=True)
        there.sort(key=lambda one: one.stat().st_mtime)
        for old in there[: max(0, len(there) - KEPT + 1)]:
            shutil.rmtree(old, ignore_errors=True)


def _touched(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    folder.touch()
    return True


def _moved(aside: Path, folder: Path) -> None:
    """Give a folder its name, unless another process was first."""
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
