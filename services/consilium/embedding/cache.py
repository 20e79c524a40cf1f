"""Vectors of texts that were seen before: least recently used go first, memory is bounded.

The key is what made the vector (fingerprint, kind) and the text's hash; the text is not kept. Knows an embedder only as the port.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np

from consilium.embedding.ports import Array, Embedder, Fingerprint, Kind, Vectors

_ENTRY_OVERHEAD_BYTES: Final = 300  # measured: key, array object, places in the table


class Cached:
    """An embedder that asks another one only for what it does not remember."""

    def __init__(self, inner: Embedder, limit_bytes: int) -> None:
        self._inner = inner
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, tuple[Array, int]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""
        return self._inner.fingerprint()

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text; a text that stands twice is embedded once. Raises ConsiliumError as the port says."""
        keys = self._keys(texts, kind)
        found = {key: entry for key in keys if (entry := self._recall(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        if missing:
            fresh = await self._inner.embed(list(missing.values()), kind)
            # The fingerprint may have been completed by this answer (the width of a remote model).
            for key, new, row, count in zip(
                missing,
                self._keys(list(missing.values()), kind),
                fresh.values,
                fresh.tokens,
                strict=True,
            ):
                found[key] = (row, count)
                self._remember(new, row, count)
        return Vectors(
            np.stack([found[key][0] for key in keys]), tuple(found[key][1] for key in keys)
        )

    async def aclose(self) -> None:
        """Forget everything and close the embedder."""
        self._entries.clear()
        self._bytes = 0
        await self._inner.aclose()

    @property
    def size_bytes(self) -> int:
        """Return the memory that is taken, estimated."""
        return self._bytes

    def _keys(self, texts: Sequence[str], kind: Kind) -> list[bytes]:
        stem = f"{self._inner.fingerprint().key()} {kind} ".encode()
        return [
            hashlib.sha256(stem + text.encode("utf-8", "surrogatepass")).digest() for text in texts
        ]

    def _recall(self, key: bytes) -> tuple[Array, int] | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def _remember(self, key: bytes, row: Array, count: int) -> None:
        if key not in self._entries:
            self._bytes += row.nbytes + _ENTRY_OVERHEAD_BYTES
        self._entries[key] = (row.copy(), count)
        while self._bytes > self._limit_bytes:
            _, (old, _) = self._entries.popitem(last=False)
            self._bytes -= old.nbytes + _ENTRY_OVERHEAD_BYTES
