"""Room on the disk for the figures of a process, taken before it is written to.

prometheus_client maps files that have holes: on a full disk the write into a hole ends the process with SIGBUS, an engine with all its answers, and its next start too.
Here the room is taken first. Where there is none, the figures of this process stay in its memory: they are on no page then, and the process goes on.
Knows the files of prometheus_client. Does not know what they count.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import prometheus_client.values
from prometheus_client.mmap_dict import MmapedDict

FIRST_BYTES: Final = 1 << 16
"""Size of a new file, as prometheus_client makes it."""
_MOST_PER_VALUE: Final = 4 + 8 + 16
"""Bytes of a value beside its name: length, padding, value and time."""


class RoomyDict(MmapedDict):
    """The values of one file, whose blocks are all there."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:  # noqa: FBT001, FBT002  as its parent has it
        """Open a file, or make it; where the disk is full, one in memory."""
        if not read_mode and not _has_room(Path(filename)):
            filename = f"/proc/self/fd/{os.memfd_create('figures')}"
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        if self._used + len(key.encode()) + _MOST_PER_VALUE > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        """Double the room."""
        size = self._capacity * 2
        try:
            with Path(self._f.name).open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
            self._m = mmap.mmap(self._f.fileno(), size)
        except OSError:
            known, self._m = self._m, mmap.mmap(-1, size)
            self._m[: len(known)] = known[:]
        self._capacity = size


def take_room() -> None:
    """Let prometheus_client take the room of its files before it writes to them."""
    prometheus_client.values.MmapedDict = RoomyDict  # type: ignore[attr-defined]


def _has_room(file: Path) -> bool:
    """Take the room for a file, which is made if need be; return whether there is any. It is seen under its name only once it is whole."""
    new = file.with_suffix(f".{os.getpid()}.new")
    try:
        if file.exists() and (size := file.stat().st_size):
            with file.open("r+b") as there:
                os.posix_fallocate(there.fileno(), 0, size)
            return True
        with new.open("wb") as made:
            os.posix_fallocate(made.fileno(), 0, FIRST_BYTES)
        new.replace(file)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        return False
    return True
