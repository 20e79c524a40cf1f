"""How large matrices of a base model are, where its weights are at hand: an adapter that is larger than what it changes is mis-scaled.

Reads a few matrices out of safetensors files, piece by piece. Does not know adapters. Raises nothing: what cannot be read says nothing.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from consilium.lora_router.factors import as_floats
from consilium.lora_router.tensor_file import ITEM_BYTES, LENGTH

_MOST_HEADER_BYTES: Final = 100_000_000
_PIECE_BYTES: Final = 16 << 20


def norms(folder: Path, modules: Iterable[str]) -> dict[str, float]:
    """Return the Frobenius norm of the weight of each module that a checkpoint folder holds in 16 or 32 bits; quantised ones and missing ones are left out."""
    wanted = {f"{module}.weight": module for module in modules}
    found: dict[str, float] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            for name, norm in _in_file(file, wanted):
                found[wanted[name]] = norm
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            continue
        if len(found) == len(wanted):
            break
    return found


def _in_file(path: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    with path.open("rb") as file:
        (length,) = LENGTH.unpack(file.read(LENGTH.size))
        if length > _MOST_HEADER_BYTES:
            return
        header: Mapping[str, Mapping[str, Any]] = json.loads(file.read(length))
        for name in wanted:
            row = header.get(name)
            if row is None or row["dtype"] not in ITEM_BYTES:
                continue
            begin, end = row["data_offsets"]
            file.seek(LENGTH.size + length + begin)
            total = 0.0
            left = end - begin
            while left > 0 and (piece := file.read(min(left, _PIECE_BYTES))):
                values = as_floats(piece, row["dtype"], (-1,))
                total += float(np.dot(values, values))
                left -= len(piece)
            yield name, math.sqrt(total)
