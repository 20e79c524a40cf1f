"""The folder in which adapters lie, each under the hash of its content.

    STORE/3f/3f9c.../adapter_model.safetensors     one version: these two files
    STORE/3f/3f9c.../adapter_config.json
    STORE/.aside/...                               what is being written or thrown away; swept at the start
    STORE/.damaged/3f9c...-1a2b3c4d/               what was registered and is not whole; nothing here deletes it

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
DAMAGED: Final = ".damaged"

_PIECE_BYTES: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found.

    damaged  hash that the registry names -> what is wrong with its files, and where they are now
    orphans  bytes that belonged to nothing, and were deleted
    """

    damaged: Mapping[str, str]
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
        """Delete what belongs to nothing, and say which versions are not whole.

        known  hash -> size of each of its files

        The folder of a version is never deleted: an adapter that was uploaded lies nowhere else. One that is not whole is moved to .damaged; strange files in it go
        one by one.
        """
        orphans = 0
        for entry in sorted(self.root.iterdir()):
            if entry.name == DAMAGED:
                continue
            if entry == self._aside or not _is_shelf(entry):
                orphans += _delete(entry, keep=entry == self._aside)
                continue
            for folder in sorted(entry.iterdir()):
                if folder.name not in known:
                    orphans += _delete(folder)
                elif folder.is_dir() and folder == self.folder(folder.name):
                    orphans += _delete_strangers(folder)
            with suppress(OSError):
                entry.rmdir()
        damaged = {sha: self._damage(sha, sizes) for sha, sizes in known.items()}
        return Swept({sha: why for sha, why in damaged.items() if why}, orphans)

    def _damage(self, sha: str, sizes: Mapping[str, int]) -> str:
        """Return what is wrong with a version, and where its files are now; "" = it is whole."""
        folder = self.folder(sha)
        try:
            why = _unlike(folder, sizes)
            if not why:
                return ""
            kept = self.root / DAMAGED / f"{sha}-{os.urandom(4).hex()}"
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            folder.rename(kept)
            to_disk(kept.parent)
            to_disk(folder.parent)
        except FileNotFoundError:
            before = sorted((self.root / DAMAGED).glob(f"{sha}-*"))
            told = f"; what an earlier start found of it is in {before[-1]}" if before else ""
            return f"its folder is gone from the store{told}"
        except OSError as err:  # whoever gives this user the folder again has it whole
            return f"{folder} cannot be read or moved: {err.strerror}"
        return f"{why}; what was left of it was moved to {kept}"

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


def _unlike(folder: Path, sizes: Mapping[str, int]) -> str:
    """Return what differs from what was stored, by the two files alone; "" = nothing. Raises OSError where it cannot be seen."""
    for name, size in sizes.items():
        try:
            found = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is gone"
        if not stat.S_ISREG(found.st_mode):
            return f"{name} is no plain file"
        if found.st_size != size:
            return f"{name} has {found.st_size} bytes, and {size} were stored"
    return ""


def _delete_strangers(folder: Path) -> int:
    """Delete what the folder of a version holds beside its two files, and return its bytes."""
    try:
        strange = [path for path in folder.iterdir() if path.name not in FILES]
    except OSError:
        return 0
    return sum(map(_delete, strange))


def _delete(entry: Path, *, keep: bool = False) -> int:
    """Delete an entry, or only what is in it, and return its bytes; 0 for what cannot be deleted now: a file that is open on another machine, one of another user."""
    try:
        if entry.is_symlink() or not entry.is_dir():
            size = entry.lstat().st_size
            entry.unlink()
            return size
        if keep:
            return sum(map(_delete, list(entry.iterdir())))
        size = sum(path.lstat().st_size for path in entry.rglob("*") if not path.is_dir())
    except OSError:
        return 0
    shutil.rmtree(entry, ignore_errors=True)
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
