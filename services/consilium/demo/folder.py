"""Folders that are either whole or not there: made aside, synced, renamed, and marked with a checksum of every file.

Knows files. Does not know models.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from consilium.kernel.disk_sync import to_disk
from consilium.kernel.errors import ConsiliumError

MARKER: Final = "consilium-model.json"
_BLOCK_BYTES: Final = 1 << 20
_MARGIN_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """How far something is.

    what   a few words for a person
    done   bytes so far; total is None where nobody knows
    """

    what: str
    done: int
    total: int | None


Report: TypeAlias = Callable[[Step], None]


def silent(_step: Step) -> None:
    """Report nothing."""


def make_whole(
    folder: Path, recipe: str, fill: Callable[[Path], None], *, needs_bytes: int
) -> bool:
    """Make `folder` with `fill` unless it stands there whole, made by the same recipe. Return whether it was made now.

    recipe       says how it is made; another recipe, a missing or a damaged file make it again
    needs_bytes  size of the finished folder

    Two processes may call this at once: the second waits and finds the folder whole. A process that dies halfway leaves a folder aside that the next one
    sweeps away. Raises ConsiliumError(disk_full) if there is no room; whatever `fill` raises leaves nothing behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with only_one(folder.parent / f".{folder.name}.lock"):
        if is_whole(folder, recipe):
            return False
        require_room(folder.parent, needs_bytes)
        aside = folder.parent / f".{folder.name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        try:
            fill(aside)
            _seal(aside, recipe)
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            to_disk(folder.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return True


def is_whole(folder: Path, recipe: str) -> bool:
    """Return whether the folder was made by this recipe and every file still has its size and checksum."""
    try:
        marker = json.loads((folder / MARKER).read_text("utf-8"))
        files: dict[str, list[object]] = marker["files"]
        return marker["recipe"] == recipe and all(
            [(folder / name).stat().st_size, sha256(folder / name)] == row
            for name, row in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def require_room(path: Path, needed_bytes: int) -> None:
    """Raise ConsiliumError(disk_full) unless the disk under `path` has `needed_bytes` and a margin of 64 MiB free."""
    free = shutil.disk_usage(path).free
    if free < needed_bytes + _MARGIN_BYTES:
        raise ConsiliumError(
            "disk_full",
            path=str(path),
            free=human_bytes(free),
            needed=human_bytes(needed_bytes + _MARGIN_BYTES),
        )


def human_bytes(count: int) -> str:
    """Return a size for people: 1 kB is 1000 bytes."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def sha256(path: Path, report: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hex; `report` hears of every block's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            if report is not None:
                report(len(block))
    return digest.hexdigest()


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold a file lock; another process that wants it waits."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _seal(folder: Path, recipe: str) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        to_disk(path)
        files[path.name] = [path.stat().st_size, sha256(path)]
    marker = folder / MARKER
    marker.write_text(json.dumps({"recipe": recipe, "files": files}, indent=1), "utf-8")
    to_disk(marker)
    to_disk(folder)
