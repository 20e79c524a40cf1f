"""The header of a safetensors file, read more strictly than any engine reads it, before one byte of a tensor is.

Knows the file format: eight bytes of length, a JSON header, tensors without gaps. Does not know what an adapter is.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import strict_json
from consilium.lora_router.refusal import refused, shown

LENGTH: Final = struct.Struct("<Q")
ITEM_BYTES: Final[Mapping[str, int]] = {"BF16": 2, "F16": 2, "F32": 4}
"""The kinds of numbers that engines take for adapters, with their size."""

_WIDEST: Final = 1 << 40
_AGAIN: Final = "Copy or download the file again"
_SAVE: Final = "Save it again with save_pretrained of PEFT, or save_file of safetensors"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor: its name, kind and shape, and where its bytes are in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(
    fd: int, size: int, where: str, *, most_bytes: int, most_tensors: int
) -> list[Tensor]:
    """Return the tensors of an open file of `size` bytes, in the order of their bytes.

    Raises ConsiliumError(adapter_refused): header_*, offsets_*, tensors_too_many, tensor_size, dtype.
    """
    start = os.pread(fd, LENGTH.size, 0)
    if len(start) < LENGTH.size:
        raise refused("header_missing", where, f"it has {size} bytes and no header", _AGAIN)
    (length,) = LENGTH.unpack(start)
    if length > most_bytes:
        raise refused(
            "header_too_large",
            where,
            f"its header would have {length} bytes, and at most {most_bytes} are read",
            "This is no safetensors file (a pickle, or a Git LFS pointer perhaps); save it as safetensors",
        )
    if LENGTH.size + length > size:
        raise refused(
            "header_truncated",
            where,
            f"its header has {length} bytes and the whole file only {size}",
            _AGAIN,
        )
    raw = os.pread(fd, length, LENGTH.size)
    if len(raw) < length:
        raise refused("file_changed", where, "it became shorter while it was read", _AGAIN)
    if (count := raw.count(b'"data_offsets"')) > most_tensors:
        raise _too_many(where, count, most_tensors)
    header = _parsed(raw, where)
    if len(header) > most_tensors:
        raise _too_many(where, len(header), most_tensors)
    tensors = [
        _tensor(name, row, where, LENGTH.size + length)
        for name, row in header.items()
        if name != "__metadata__"
    ]
    if not tensors:
        raise refused("no_tensors", where, "it holds no tensor", _SAVE)
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(tensors, LENGTH.size + length, size, where)
    return tensors


def _too_many(where: str, count: int, most: int) -> ConsiliumError:
    return refused(
        "tensors_too_many",
        where,
        f"it names {count} tensors, and at most {most} are taken",
        "An adapter of the largest known model has about 75,000; leave experts out",
    )


def _parsed(raw: bytes, where: str) -> dict[str, Any]:
    if raw[:1] != b"{":
        raise refused("header_not_json", where, "its header does not begin with '{'", _SAVE)
    try:
        header = strict_json.loads(raw)
    except strict_json.StrictJsonError as cause:
        raise refused(f"header_{cause.kind}", where, f"its header {cause}", _SAVE) from cause
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise refused("header_entry", where, "__metadata__ is not a table of texts", _SAVE)
    return header


def _tensor(name: str, row: Any, where: str, base: int) -> Tensor:
    place = f"{where}, {shown(name)}"
    if not isinstance(row, dict) or set(row) != {"dtype", "shape", "data_offsets"}:
        raise refused("header_entry", place, "its row is not dtype, shape and data_offsets", _SAVE)
    dtype, shape, offsets = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise refused(
            "dtype",
            place,
            f"its numbers are {shown(dtype)}, and engines take {', '.join(ITEM_BYTES)}",
            "Convert it to bfloat16 and save it again",
        )
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise refused("header_entry", place, "shape or data_offsets is no list of sizes", _SAVE)
    begin, end = offsets
    if end < begin:
        raise refused("offsets_reversed", place, f"it ends at {end} and begins at {begin}", _SAVE)
    wanted = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != wanted:
        raise refused(
            "tensor_size",
            place,
            f"{dtype} of shape {tuple(shape)} takes {wanted} bytes, and it has {end - begin}",
            _SAVE,
        )
    return Tensor(name, dtype, tuple(shape), base + begin, base + end)


def _are_sizes(found: Any) -> bool:
    return isinstance(found, list) and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < _WIDEST
        for size in found
    )


def _check_layout(tensors: list[Tensor], begin: int, size: int, where: str) -> None:
    """Raise where tensors overlap, leave gaps, or do not end where the file ends."""
    last = max(tensors, key=lambda tensor: tensor.end)
    if last.end > size:
        raise refused(
            "offsets_past_end",
            f"{where}, {shown(last.name)}",
            f"its bytes end at {last.end} and the file at {size}: the file is cut off",
            _AGAIN,
        )
    for tensor in tensors:
        place = f"{where}, {shown(tensor.name)}"
        if tensor.start < begin:
            raise refused("offsets_overlap", place, "its bytes are another tensor's as well", _SAVE)
        if tensor.start > begin:
            raise refused(
                "offsets_gap",
                place,
                f"{tensor.start - begin} bytes before it belong to none",
                _SAVE,
            )
        begin = tensor.end
    if begin != size:
        raise refused(
            "file_too_long",
            where,
            f"{size - begin} bytes after the last tensor belong to none",
            _SAVE,
        )
