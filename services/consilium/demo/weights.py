"""Safetensors files without torch: written in bfloat16, and checked by their header.

Knows the file format (eight bytes of header length, a JSON header, tensor bytes) and rounding to bfloat16. Does not know models.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Bf16: TypeAlias = npt.NDArray[np.uint16]

_LENGTH: Final = struct.Struct("<Q")
_HEADER_LIMIT_BYTES: Final = 100_000_000  # the format's own limit
_ALIGNMENT_BYTES: Final = 8


class BrokenFileError(ValueError):
    """A file that is not whole safetensors; the message says what is wrong with it."""


def to_bf16(values: npt.NDArray[np.float32]) -> Bf16:
    """Return float32 values as bfloat16 bit patterns, rounded to the nearest, ties to even. The values are finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    return rounded.astype(np.uint16)


def write_bf16(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Bf16]]
) -> None:
    """Write one safetensors file; tensors come one at a time, in the order of `shapes`, so that only one is in memory.

    Raises ValueError if a tensor is not the next one or has another shape, OSError if the disk refuses.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT_BYTES)
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(raw)) + raw)
        for (name, shape), (given, tensor) in zip(shapes.items(), tensors, strict=True):
            if given != name or tensor.shape != shape:
                msg = f"tensor {given} {tensor.shape} came where {name} {shape} was expected"
                raise ValueError(msg)
            file.write(tensor.astype("<u2", copy=False).tobytes())


def check_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a safetensors file and their shapes, after comparing the header with the file's size.

    Raises BrokenFileError if the file is truncated, too long, or no safetensors file; OSError if it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise BrokenFileError(f"it has {size} bytes and no header")
        (length,) = _LENGTH.unpack(start)
        if length > _HEADER_LIMIT_BYTES:
            raise BrokenFileError(
                "it does not begin with a safetensors header (a Git LFS pointer perhaps)"
            )
        raw = file.read(length)
    if len(raw) < length:
        raise BrokenFileError(
            f"its header has {length} bytes and the file holds only {len(raw)} of them"
        )
    shapes, end = _tensors(raw)
    expected = _LENGTH.size + length + end
    if size != expected:
        what = "truncated" if size < expected else "too long"
        raise BrokenFileError(f"it is {what}: {size} bytes, and its header speaks of {expected}")
    return shapes


def _tensors(raw: bytes) -> tuple[dict[str, tuple[int, ...]], int]:
    shapes: dict[str, tuple[int, ...]] = {}
    end = 0
    try:
        header = json.loads(raw)
        for name, row in header.items():
            if name != "__metadata__":
                shapes[name] = tuple(row["shape"])
                end = max(end, int(row["data_offsets"][1]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as cause:
        raise BrokenFileError("its header is not readable") from cause
    return shapes, end
