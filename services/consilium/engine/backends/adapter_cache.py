"""The adapters that a node has fetched because it does not see their store: one folder for all engines of the node, kept by bytes.

    CACHE/3f9c.../             one version, its two files; whoever uses it holds a shared lock of the folder
    CACHE/.fetch-BYTES-.../    one that is being fetched, and the bytes that it will have; its process holds the lock

Those used longest ago go first, and none that somebody uses. A lock ends with its process, so what a killed one has left is seen. Everything here blocks and is called in
threads. Knows folders. Does not know where files come from.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from consilium.kernel.disk_quota import bytes_under
from consilium.kernel.errors import ConsiliumError

GIB: Final = 2**30
SETTING: Final = "engine.adapter_cache_gib (in the chart adapters.cacheSize)"
_ASIDE: Final = ".fetch-"
_GOING: Final = ".going-"
_LOCK: Final = ".lock"


class Hold:
    """A folder that stays while this is held: several may hold it. Ends with `release`, or with the process."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock: int | None = lock

    def release(self) -> None:
        """Let go."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __del__(self) -> None:
        """Let go of what a cancelled caller never got."""
        self.release()


class AdapterCache:
    """The folder of one node. `limit_bytes` is what it may take; what is on its way counts."""

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root, self._limit = root, limit_bytes

    def folder(self, sha: str) -> Path:
        """Return where a version lies, or would."""
        return self.root / sha

    def hold(self, sha: str) -> Hold | None:
        """Hold a version, which is used now; None = it is not here."""
        folder = self.folder(sha)
        lock = _opened(folder)
        if lock is None:
            return None
        hold = Hold(folder, lock)
        if _lock(lock, fcntl.LOCK_SH) is False or not _is_at(folder, lock):
            hold.release()  # it is being thrown away
            return None
        now = time.time_ns()  # the disk's own clock has steps of some milliseconds
        os.utime(folder, ns=(now, now))
        return hold

    def begin(self, size: int) -> Hold:
        """Return a new folder for a version of so many bytes, after making room. Raises ConsiliumError: adapter_cache_full, disk_full."""
        self.root.mkdir(parents=True, exist_ok=True)
        going: list[Path] = []
        try:
            with self._alone():
                self._make_room(size, going)
                aside = Path(tempfile.mkdtemp(prefix=f"{_ASIDE}{size}-", dir=self.root))
                lock = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                _lock(lock, fcntl.LOCK_EX)
        finally:
            for each in going:
                shutil.rmtree(each, ignore_errors=True)
        return Hold(aside, lock)

    def finish(self, aside: Hold, sha: str) -> Hold:
        """Give a fetched folder its name, unless another process was first; hold it. Raises OSError."""
        folder = self.folder(sha)
        try:
            aside.folder.rename(folder)
        except OSError:
            there = self.hold(sha)
            if there is None:
                raise
            return there
        aside.release()
        there = self.hold(sha)
        if there is None:
            message = f"{folder} went away at once"
            raise OSError(message)
        return there

    def drop(self, folder: Path) -> None:
        """Throw a folder away, whoever holds it: it is damaged, or half of one."""
        grave = self.root / f"{_GOING}{folder.name}-{os.urandom(4).hex()}"
        with suppress(OSError):
            folder.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _make_room(self, size: int, going: list[Path]) -> None:
        """Take as many out as have to go. `going` gets where they lie now."""
        entries = [one for one in self.root.iterdir() if one.is_dir()]
        going += [one for one in entries if one.name.startswith(_GOING) or _is_left(one)]
        there = [one for one in entries if one not in going]
        sizes = {one: _size_of(one) for one in there}
        kept = sum(sizes.values())
        free = shutil.disk_usage(self.root).free + sum(bytes_under(one) for one in going)
        # What others are fetching is not on the disk yet.
        free -= sum(sizes[one] - bytes_under(one) for one in there if _is_aside(one))
        for one in sorted((o for o in there if not _is_aside(o)), key=_used_at):
            if size > self._limit or (kept + size <= self._limit and free >= size):
                break
            grave = self._taken_out(one)
            if grave is not None:
                going.append(grave)
                kept, free = kept - sizes[one], free + sizes[one]
        if kept + size > self._limit:
            raise ConsiliumError(
                "adapter_cache_full",
                needed=_told(size),
                limit=f"{self._limit / GIB:g} GiB",
                used=_told(kept),
                setting=SETTING,
                retry_after_s=5.0,
            )
        if free < size:
            raise ConsiliumError(
                "disk_full", path=str(self.root), free=_told(max(0, free)), needed=_told(size)
            )

    def _taken_out(self, folder: Path) -> Path | None:
        """Take a version out that nobody holds, and return where it lies now; None = somebody uses it."""
        lock = _opened(folder)
        if lock is None:
            return None
        grave = self.root / f"{_GOING}{folder.name}-{os.urandom(4).hex()}"
        try:
            if not _lock(lock, fcntl.LOCK_EX):
                return None
            folder.rename(grave)
        except OSError:
            return None
        finally:
            os.close(lock)
        return grave

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time make room: two would both find that they fit."""
        lock = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _opened(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None


def _lock(lock: int, kind: int) -> bool | None:
    """Say whether a lock was got at once; None = this disk has none."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(folder: Path, lock: int) -> bool:
    """Say whether a folder is still the one that was opened."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except OSError:
        return False


def _is_aside(folder: Path) -> bool:
    return folder.name.startswith(_ASIDE)


def _is_left(folder: Path) -> bool:
    """Say whether a process was killed while it fetched this."""
    if not _is_aside(folder):
        return False
    lock = _opened(folder)
    if lock is None:
        return False
    try:
        return _lock(lock, fcntl.LOCK_EX) is True
    finally:
        os.close(lock)


def _size_of(folder: Path) -> int:
    """Return the bytes of a folder, or those that it will have."""
    there = bytes_under(folder)
    if not _is_aside(folder):
        return there
    promised = folder.name.removeprefix(_ASIDE).partition("-")[0]
    return max(there, int(promised) if promised.isdigit() else 0)


def _used_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _told(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
