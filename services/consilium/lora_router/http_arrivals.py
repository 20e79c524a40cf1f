"""Files that come over HTTP wait here until both are there: UPLOADS/<tenant>/<id>/, resumable, for a day.

An upload that is being taken in is written by nobody: so what was checked is what is stored. Knows files and tenants. Does not know what is in the files.
"""

from __future__ import annotations

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.disk_quota import Account, DiskQuota
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import Receive
from consilium.kernel.uploads import Uploads, size_of
from consilium.lora_router.store import FILES

KEPT_S: Final = 86_400.0
"""An upload that nobody has gone on with for so long is deleted."""
SWEEP_S: Final = 3600.0
UPLOAD: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
SETTING: Final = "lora_router.max_adapter_gib"

_log = logs.get("lora_router")


class Arrivals:
    """The uploads that have begun.

    adapter_bytes  largest adapter; a tenant may have two of that size on their way
    """

    def __init__(self, folder: Path, adapter_bytes: int, *, clock: Clock) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._adapter_bytes, self._clock = folder, adapter_bytes, clock
        self._quota = DiskQuota(folder, 2 * adapter_bytes, setting=SETTING)
        self._uploads = Uploads()
        self._writing: Counter[Path] = Counter()
        self._taken: set[Path] = set()

    async def receive(
        self, tenant: str, upload: str, file: str, offset: int, receive: Receive
    ) -> int:
        """Write a body into a file of an upload, and return its bytes. Raises ConsiliumError: invalid_request, conflict, and what Uploads raises."""
        folder = self._of(tenant, upload)
        if file not in FILES:
            raise ConsiliumError(
                "invalid_request",
                field="file",
                reason=f"an adapter has the files {' and '.join(FILES)}, and no {file[:80]!r}",
            )
        if folder in self._taken:
            raise _in_use()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writing[folder] += 1
        try:
            return await self._uploads.receive(
                folder / file,
                offset,
                receive,
                limit=self._adapter_bytes,
                account=self._account(tenant),
            )
        finally:
            self._writing[folder] -= 1

    def size(self, tenant: str, upload: str, file: str) -> int:
        """Return how many bytes of a file have come."""
        folder = self._of(tenant, upload)
        return size_of(folder / file) if file in FILES else 0

    @contextmanager
    def taken(self, tenant: str, upload: str) -> Iterator[Path]:
        """Give the folder of an upload, which nobody writes to meanwhile.

        It is deleted at the end, unless something was raised: what was refused for its name, or for want of room, can be asked for again without sending it again.
        Raises ConsiliumError(conflict) while a body is on its way.
        """
        folder = self._of(tenant, upload)
        if self._writing[folder] or folder in self._taken:
            raise _in_use()
        self._taken.add(folder)
        try:
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            self._taken.discard(folder)
            self._account(tenant).measure()

    def forget(self, tenant: str, upload: str) -> None:
        """Delete an upload. Raises ConsiliumError(conflict) while it is in use."""
        with self.taken(tenant, upload):
            pass

    async def run(self) -> None:
        """Delete what was left behind, now and every hour."""
        while True:
            await asyncio.to_thread(self.sweep)
            await self._clock.sleep(SWEEP_S)

    def sweep(self) -> None:
        """Delete uploads that nobody has gone on with for a day."""
        ends = self._clock.now() - KEPT_S
        for folder in (upload for tenant in _inside(self._folder) for upload in _inside(tenant)):
            if self._writing[folder] or folder in self._taken:
                continue
            try:
                if _newest(folder) < ends:
                    _delete(folder)
                    self._account(folder.parent.name).measure()
                    _log.info("upload_forgotten", tenant=folder.parent.name)
            except OSError as err:  # it was taken in or forgotten meanwhile, or is another's; the next hour looks again
                _log.warning("upload_not_swept", path=str(folder), reason=str(err))

    def _of(self, tenant: str, upload: str) -> Path:
        if not UPLOAD.fullmatch(upload):
            raise ConsiliumError(
                "invalid_request",
                field="upload",
                reason="choose an id of 8 to 64 letters, digits, '-' and '_'",
            )
        return self._folder / tenant / upload

    def _account(self, tenant: str) -> Account:
        return self._quota.account(tenant)


def _inside(folder: Path) -> list[Path]:
    """Return what is in a folder; nothing where it is gone, or is a file."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _newest(entry: Path) -> float:
    """Return when an upload, or a stray file in its place, was last written to."""
    inside = entry.iterdir() if entry.is_dir() and not entry.is_symlink() else ()
    return max(float(path.lstat().st_mtime) for path in (entry, *inside))


def _delete(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _in_use() -> ConsiliumError:
    return ConsiliumError(
        "conflict",
        reason="This upload is being written or taken in by another request. Wait for that one.",
    )
