"""The two files of an adapter: opened without following a link, read strictly, hashed, weighed in one pass.

    read(folder)         configuration and header alone: milliseconds, no tensor is read
    describe(folder)     every check that needs no model, and the hash; one pair of factors in memory at a time
    content_sha(folder)  the hash again, before a load: the same checks of configuration and header, then the bytes

The hash covers each tensor's name, kind, shape and bytes, and the scale that the configuration gives it; not the order in the file, and no key without a meaning.
Knows files. Does not know bases, names or the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_config, checks, tensor_file
from consilium.lora_router.adapter_config import Settings
from consilium.lora_router.checks import Pair
from consilium.lora_router.factors import as_floats, weigh
from consilium.lora_router.ports import Described
from consilium.lora_router.refusal import refused, shown
from consilium.lora_router.tensor_file import Tensor
from consilium.lora_router.values import Values

CONFIG: Final = adapter_config.FILE
TENSORS: Final = "adapter_model.safetensors"
FILES: Final = (CONFIG, TENSORS)
"""All that is ever read of an adapter's folder."""

HASH: Final = "consilium-adapter/1"
_PICKLES: Final = (
    "adapter_model.bin",
    "adapter_model.pt",
    "adapter_model.pth",
    "adapter_model.pkl",
)
_VOCABULARY: Final = ("new_embeddings.safetensors", "new_embeddings.bin")
_PIECE: Final = 16 << 20
_COPY: Final = "Copy the file itself to this place (cp -L)"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is taken at most. How large an adapter may be the store says (lora_router.max_adapter_gib); files are read piece by piece, so here it is only what no adapter is."""

    file_bytes: int = 1 << 40
    header_bytes: int = 32 << 20
    config_bytes: int = 1 << 20
    tensors: int = 200_000


USUAL: Final = Limits()


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """What configuration and header say.

    size_bytes  of both files
    """

    settings: Settings
    pairs: tuple[Pair, ...]
    size_bytes: int

    def described(self, sha: str = "") -> Described:
        """Return it as other parts of the room see it."""
        experts = max(pair.experts for pair in self.pairs)
        meaning = self.settings.meaning() | ({"experts": experts} if experts else {})
        return Described(
            sha=sha,
            rank=self.settings.largest_rank,
            size_bytes=self.size_bytes,
            modules={
                pair.module: (pair.rank, pair.width_in, pair.width_out) for pair in self.pairs
            },
            is_3d=experts > 0,
            base=self.settings.base,
            config=meaning,
            remarks=(*self.settings.remarks, *checks.remarks_of(self.pairs, self.settings)),
        )


@dataclass(frozen=True, slots=True)
class OpenFiles:
    """Both files, open, with what they say. `tensors` is a descriptor."""

    files: AdapterFiles
    tensors: int

    def bytes_of(self, tensor: Tensor) -> bytes:
        """Return the bytes of one tensor. Raises ConsiliumError(adapter_refused, file_changed)."""
        return b"".join(self.pieces_of(tensor))

    def pieces_of(self, tensor: Tensor) -> Iterator[bytes]:
        """Yield the bytes of one tensor, 16 MiB at a time."""
        at = tensor.start
        while at < tensor.end:
            piece = os.pread(self.tensors, min(_PIECE, tensor.end - at), at)
            if not piece:
                raise _changed()
            at += len(piece)
            yield piece


def read(folder: Path, limits: Limits = USUAL) -> AdapterFiles:
    """Return what configuration and header say, after every check that needs no values.

    Raises ConsiliumError(adapter_refused) with the first thing that is wrong.
    """
    with opened(folder, limits) as found:
        return found.files


def describe(folder: Path, limits: Limits = USUAL) -> Described:
    """Return what an adapter is, after every check that needs no model.

    Reads each byte once, and holds one pair of factors at a time. Raises ConsiliumError(adapter_refused) with the first thing that is wrong.
    """
    return measure(folder, limits)[0]


def measure(folder: Path, limits: Limits = USUAL) -> tuple[Described, Mapping[str, float]]:
    """Return what an adapter is, as `describe` does, and the Frobenius norm of each module's scaled delta."""
    values = Values()
    digests: dict[str, str] = {}
    with opened(folder, limits) as found:
        for pair in sorted(found.files.pairs, key=lambda pair: pair.a.start):
            raw_a, raw_b = found.bytes_of(pair.a), found.bytes_of(pair.b)
            digests[pair.a.name] = hashlib.sha256(raw_a).hexdigest()
            digests[pair.b.name] = hashlib.sha256(raw_b).hexdigest()
            a = as_floats(raw_a, pair.a.dtype, pair.a.shape)
            b = as_floats(raw_b, pair.b.dtype, pair.b.shape)
            values.take(pair.module, weigh(a, b, pair.scale, pair.experts), TENSORS)
        remarks = values.judge(TENSORS)
        described = found.files.described(_sha(found.files.pairs, digests))
    return replace(described, remarks=(*described.remarks, *remarks)), values.norms


def content_sha(
    folder: Path, limits: Limits = USUAL, *, beat: Callable[[], None] = lambda: None
) -> str:
    """Return the hash of what lies in a folder, 64 hex characters. Raises ConsiliumError(adapter_refused) where it is no adapter any more.

    beat  called after each piece that was read: the disk answers
    """
    digests: dict[str, str] = {}
    with opened(folder, limits) as found:
        tensors = [tensor for pair in found.files.pairs for tensor in (pair.a, pair.b)]
        for tensor in sorted(tensors, key=lambda tensor: tensor.start):
            digest = hashlib.sha256()
            for piece in found.pieces_of(tensor):
                digest.update(piece)
                beat()
            digests[tensor.name] = digest.hexdigest()
        return _sha(found.files.pairs, digests)


@contextmanager
def opened(folder: Path, limits: Limits = USUAL) -> Iterator[OpenFiles]:
    """Open both files of a folder and read configuration and header. Raises ConsiliumError(adapter_refused); file_changed at the end, if somebody wrote meanwhile."""
    with ExitStack() as stack:
        inside = _open_folder(folder)
        stack.callback(os.close, inside)
        _refuse_others(inside)
        config = _open_file(inside, CONFIG, limits.config_bytes)
        stack.callback(os.close, config)
        tensors = _open_file(inside, TENSORS, limits.file_bytes)
        stack.callback(os.close, tensors)
        before = _state(config), _state(tensors)
        yield OpenFiles(_parsed(config, tensors, limits), tensors)
        if (_state(config), _state(tensors)) != before:
            raise _changed()


def _parsed(config: int, tensors: int, limits: Limits) -> AdapterFiles:
    raw = os.pread(config, limits.config_bytes + 1, 0)
    settings = adapter_config.parse(raw)
    size = os.fstat(tensors).st_size
    header = tensor_file.read_header(
        tensors, size, TENSORS, most_bytes=limits.header_bytes, most_tensors=limits.tensors
    )
    return AdapterFiles(settings, checks.pairs_of(header, settings, TENSORS), size + len(raw))


def _sha(pairs: tuple[Pair, ...], digests: dict[str, str]) -> str:
    rows = sorted(
        [
            tensor.name,
            tensor.dtype,
            list(tensor.shape),
            repr(float(pair.scale)),
            digests[tensor.name],
        ]
        for pair in pairs
        for tensor in (pair.a, pair.b)
    )
    return hashlib.sha256(f"{HASH}\n{json.dumps(rows)}".encode()).hexdigest()


def _open_folder(folder: Path) -> int:
    try:
        mode = os.lstat(folder).st_mode
    except (OSError, ValueError) as cause:
        raise refused(
            "folder_missing",
            str(folder),
            "there is no such folder",
            "Give the folder of the adapter",
        ) from cause
    if stat.S_ISLNK(mode):
        raise refused(
            "folder_is_link",
            str(folder),
            "it is a link",
            f"Give the folder itself: {shown(os.path.realpath(folder))}",
        )
    if not stat.S_ISDIR(mode):
        raise refused(
            "not_a_folder", str(folder), "it is no folder", f"Give the folder that holds {TENSORS}"
        )
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as cause:
        raise _unreadable(str(folder), cause) from cause


def _refuse_others(inside: int) -> None:
    """Raise for files beside the two that would have a meaning elsewhere. README, tokenizer and checkpoints are not looked at and never taken along."""
    whole = _is_there(inside, TENSORS)
    for name in _PICKLES:
        if _is_there(inside, name):
            way = (
                "Take it away, so that it is clear which one is meant"
                if whole
                else f"Load it with PEFT where you trust it, and save it as {TENSORS}"
            )
            code = "pickle_beside" if whole else "pickle"
            raise refused(code, name, "it is a pickle, which may run code; it is never opened", way)
    for name in _VOCABULARY:
        if _is_there(inside, name):
            raise refused(
                "vocabulary",
                name,
                "the adapter adds tokens, and engines keep the base's vocabulary",
                "Train it without new tokens",
            )


def _is_there(inside: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=inside, follow_symlinks=False)
    except OSError:
        return False
    return True


def _open_file(inside: int, name: str, most_bytes: int) -> int:
    try:
        mode = os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode
    except OSError as cause:
        raise refused(
            "file_missing",
            name,
            "it is not there",
            f"An adapter is a folder with {' and '.join(FILES)}",
        ) from cause
    if stat.S_ISLNK(mode):
        raise refused("file_is_link", name, "it is a link, and may point anywhere", _COPY)
    if not stat.S_ISREG(mode):
        raise refused("not_a_file", name, "it is no regular file", _COPY)
    try:
        fd = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=inside
        )
    except OSError as cause:
        raise _unreadable(name, cause) from cause
    try:
        _check_file(os.fstat(fd), name, most_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_file(found: os.stat_result, name: str, most_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise refused("not_a_file", name, "it is no regular file", _COPY)
    if found.st_nlink > 1:
        raise refused(
            "file_is_hard_link",
            name,
            f"it has {found.st_nlink} names, so it may be changed from elsewhere",
            _COPY,
        )
    if found.st_size > most_bytes:
        raise refused(
            "file_too_large",
            name,
            f"it has {found.st_size} bytes, and at most {most_bytes} are taken",
            "This is no adapter: the largest known ones have a few GiB"
            if name == TENSORS
            else "Take out what PEFT did not write",
        )


def _state(fd: int) -> tuple[int, int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns, found.st_nlink


def _changed() -> ConsiliumError:
    return refused(
        "file_changed",
        TENSORS,
        "somebody wrote to it while it was read",
        "Try again when it is whole",
    )


def _unreadable(name: str, cause: OSError) -> ConsiliumError:
    return refused(
        "unreadable", name, f"it cannot be read ({cause.strerror})", "Let this process read it"
    )
