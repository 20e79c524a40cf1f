"""The folder in which adapters lie, each under the hash of its content.

    STORE/3f/3f9c.../adapter_model.safetensors     one version: these two files and nothing else
    STORE/3f/3f9c.../adapter_config.json
    STORE/.aside/...                               what is being written or thrown away; swept at the start

A version is written aside, brought to the disk, and renamed: it is there whole or not at all. Everything here blocks and is called in threads.
Knows files. Does not know names, formats or who may add what.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from consilium.kernel.disk_sync import to_disk
from consilium.kernel.errors import ConsiliumError

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
FILES: Final = (CONFIG, WEIGHTS)
ASIDE: Final = ".aside"

_PIECE_BYTES: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found.

    lost      hashes that the registry names and whose files are not there whole
    orphans   bytes that belonged to nothing, and were deleted
    """

    lost: tuple[str, ...]
    orphans: int


class Store:
    """The versions in one folder. One process writes it."""

    def __init__(self, root: Path) -> None:
        """Make the folder, for this user alone."""
        self.root = root
        self._aside = root / ASIDE
        self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder(self, sha: str) -> Path:
        """Return where a version lies, or would."""
        return self.root / sha[:2] / sha

    def copy_in(self, source: Path, limit_bytes: int) -> Path:
        """Copy the two files of a folder aside, and return where they are, on the disk.

        Other files of the folder are left behind. A file that is a link is refused; so is one that grows over the limit while it is read.
        Raises ConsiliumError: adapter_refused, disk_full.
        """
        with self._written_aside() as aside:
            left = limit_bytes
            for name in FILES:
                left -= _copy(source / name, aside / name, left)
            to_disk(aside)
            return aside

    def move_in(self, source: Path) -> Path:
        """Move the two files of a folder on the same disk aside, and return where they are; what else the folder holds is deleted with it.

        Raises ConsiliumError: adapter_refused, disk_full.
        """
        with self._written_aside() as aside:
            for name in FILES:
                check_file(source / name)
            for name in FILES:
                (source / name).rename(aside / name)
                (aside / name).chmod(0o600)
                to_disk(aside / name)
            to_disk(aside)
        shutil.rmtree(source, ignore_errors=True)
        return aside

    def publish(self, aside: Path, sha: str, *, anew: bool = False) -> None:
        """Rename what lies aside to its place. Where the version is there already, that one stays.

        anew  what is there is damaged: it is exchanged
        """
        folder = self.folder(sha)
        with _full_is_told(self.root):
            if anew:
                self.remove(sha)
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            if folder.exists():
                self.discard(aside)
                return
            aside.rename(folder)
            to_disk(folder.parent)
            to_disk(self.root)

    def remove(self, sha: str) -> None:
        """Delete a version: it is gone at once, its bytes a little later."""
        folder = self.folder(sha)
        grave = self._aside / f"{sha}-{os.urandom(4).hex()}"
        with suppress(FileNotFoundError):
            folder.rename(grave)
            to_disk(folder.parent)
            with suppress(OSError):  # others lie there
                folder.parent.rmdir()
            self.discard(grave)

    def discard(self, aside: Path) -> None:
        """Delete what was written aside. What cannot be deleted now is swept at the next start."""
        shutil.rmtree(aside, ignore_errors=True)

    def sizes(self, folder: Path) -> dict[str, int]:
        """Return the bytes of each of the two files. Raises ConsiliumError(adapter_refused) if one is not there, or is no plain file."""
        return {name: check_file(folder / name) for name in FILES}

    def sweep(self, known: Mapping[str, Mapping[str, int]]) -> Swept:
        """Delete what belongs to nothing, and say which versions have lost their files.

        known  hash -> size of each of its files
        """
        orphans = 0
        for entry in sorted(self.root.iterdir()):
            if entry == self._aside or not _is_shelf(entry):
                orphans += _delete(entry, keep=entry == self._aside)
                continue
            for folder in sorted(entry.iterdir()):
                if folder.name not in known or not _is_whole(folder, known[folder.name]):
                    orphans += _delete(folder)
            with suppress(OSError):
                entry.rmdir()
        lost = [sha for sha in known if not self.folder(sha).is_dir()]
        return Swept(tuple(sorted(lost)), orphans)

    @contextmanager
    def _written_aside(self) -> Iterator[Path]:
        with _full_is_told(self.root):
            aside = Path(tempfile.mkdtemp(prefix="add-", dir=self._aside))
            try:
                yield aside
            except BaseException:
                self.discard(aside)
                raise


def check_file(path: Path) -> int:
    """Return the bytes of a plain file. Raises ConsiliumError(adapter_refused) if it is not there, a link, or anything else."""
    try:
        found = path.lstat()
    except OSError:
        raise _refused(
            "file_missing",
            path,
            f"there is no {path.name} in it",
            "Name the folder that the trainer wrote with save_pretrained",
        ) from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no plain file"
        raise _refused(
            "file_is_no_plain_file", path, f"{path.name} is {kind}", "Put the file itself there"
        )
    return found.st_size


def look_of(folder: Path) -> str:
    """Return what tells whether the files of a folder have changed since: sizes, times and inodes. Raises ConsiliumError(adapter_refused)."""
    told = []
    for name in FILES:
        check_file(folder / name)
        found = (folder / name).lstat()
        told.append(f"{found.st_size}.{found.st_mtime_ns}.{found.st_ino}")
    return f"{folder}|{'|'.join(told)}"


def _is_shelf(entry: Path) -> bool:
    return entry.is_dir() and not entry.is_symlink() and len(entry.name) == 2


def _is_whole(folder: Path, file_bytes: Mapping[str, int]) -> bool:
    try:
        names = sorted(path.name for path in folder.iterdir())
        return names == sorted(file_bytes) and all(
            check_file(folder / name) == size for name, size in file_bytes.items()
        )
    except (OSError, ConsiliumError):
        return False


def _delete(entry: Path, *, keep: bool = False) -> int:
    """Delete an entry, or only what is in it, and return its bytes."""
    if entry.is_symlink() or not entry.is_dir():
        size = entry.lstat().st_size
        entry.unlink(missing_ok=True)
        return size
    size = sum(path.lstat().st_size for path in entry.rglob("*") if not path.is_dir())
    if not keep:
        shutil.rmtree(entry, ignore_errors=True)
        return size
    for inside in entry.iterdir():
        _delete(inside)
    return size


def _copy(source: Path, target: Path, limit_bytes: int) -> int:
    size = check_file(source)
    if size > limit_bytes:
        raise _too_large(source, size)
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        reason = f"{source.name} cannot be read: {err.strerror}"
        raise _refused("file_unreadable", source, reason, "Give this user the file") from err
    with (
        os.fdopen(descriptor, "rb") as reading,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as writing,
    ):
        written = _pour(reading, writing, limit_bytes, source)
        writing.flush()
        os.fsync(writing.fileno())
    return written


def _pour(reading: BinaryIO, writing: BinaryIO, limit_bytes: int, source: Path) -> int:
    written = 0
    while piece := reading.read(_PIECE_BYTES):
        written += len(piece)
        if written > limit_bytes:
            raise _too_large(source, written)
        writing.write(piece)
    return written


@contextmanager
def _full_is_told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in _FULL:
            raise
        free = shutil.disk_usage(root).free
        raise ConsiliumError(
            "disk_full", str(err), path=str(root), free=f"{free / 2**20:.1f} MiB", needed="more"
        ) from err


def _too_large(source: Path, size: int) -> ConsiliumError:
    return _refused(
        "too_large",
        source,
        f"its files have more bytes than lora_router.max_adapter_gib allows ({size} in {source.name})",
        "Raise lora_router.max_adapter_gib, or train with a smaller rank or fewer modules",
    )


def _refused(check: str, path: Path, reason: str, way: str) -> ConsiliumError:
    return ConsiliumError(
        "adapter_refused",
        str(path),
        reason=f"{path.parent}: {reason}. {way} ({check})",
        check=check,
    )
