"""Models from wheels on the CPU: text to vectors without a network, a key or PyTorch.

One thread works for all callers, batch by batch, so that they take turns; questions come before passages. Knows batches. Does not know models.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import numpy as np

from consilium.embedding.ports import Array, Fingerprint, Kind, Vectors
from consilium.embedding.turns import Turns
from consilium.kernel.errors import ConsiliumError

Answer = TypeVar("Answer")

_PADDED_TOKENS: Final = 512
"""In one run: a third of a second of one core at most, after which the next caller has its turn. Larger runs are no faster, and take more memory (measured)."""
_TEXTS: Final = 64
"""Texts that are cut into tokens in one go."""
_MOST_THREADS: Final = 4
_RANKS: Final[dict[Kind, int]] = {"query": 0, "passage": 1}


@dataclass(frozen=True, slots=True)
class Row:
    """A text as tokens.

    ids     of the model, or of the one that counts where two work side by side
    beside  ids of the second model; None = it does not read this text
    alone   whether the first one's vector is the whole
    """

    ids: list[int]
    beside: list[int] | None = None
    alone: bool = False

    @property
    def length(self) -> int:
        """Return the tokens of the longer part."""
        return max(len(self.ids), len(self.beside or ()))


class Model(Protocol):
    """A model of a wheel. All but `fingerprint` is called in one thread, `load` first; loading twice does nothing."""

    name: str
    dimensions: int

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""

    def load(self) -> None:
        """Open the files. Raises ConsiliumError(config_invalid)."""

    def rows(self, texts: Sequence[str], kind: Kind) -> list[Row]:
        """Return the tokens of each text. Raises ConsiliumError(invalid_request) if one is too long."""

    def vectors(self, rows: Sequence[Row]) -> Array:
        """Return one unit vector per row; neighbours do not change it."""


class Offline:
    """A model of a wheel as an embedder."""

    def __init__(self, model: Model, *, batch: int = 32) -> None:
        self._model = model
        self._batch = batch
        self._turns = Turns()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedding")

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""
        return self._model.fingerprint()

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Who is cancelled leaves at the end of the batch that is being worked on.

        Raises ConsiliumError: invalid_request (a text is too long), config_invalid (a wheel is not installed).
        """
        rows: list[Row] = []
        for start in range(0, len(texts), _TEXTS):
            rows += await self._work(kind, self._rows, texts[start : start + _TEXTS], kind)
        values = np.empty((len(texts), self._model.dimensions), dtype=np.float32)
        for places in self._batches(rows):
            batch = [rows[place] for place in places]
            values[places] = await self._work(kind, self._model.vectors, batch)
        return Vectors(values, tuple(len(row.ids) for row in rows))

    async def aclose(self) -> None:
        """End the thread after the batch that it works on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _work(self, kind: Kind, work: Callable[..., Answer], *args: object) -> Answer:
        async with self._turns.take(_RANKS[kind]):
            return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def _rows(self, texts: Sequence[str], kind: Kind) -> list[Row]:
        self._model.load()
        return self._model.rows(texts, kind)

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Yield places of rows of like length together, so that little is padding."""
        places: list[int] = []
        for place in sorted(range(len(rows)), key=lambda index: rows[index].length):
            if places and (
                len(places) == self._batch
                or (len(places) + 1) * rows[place].length > _PADDED_TOKENS
            ):
                yield places
                places = []
            places.append(place)
        if places:
            yield places


def threads_for(asked: int | None) -> int:
    """Return the threads of one run: what was asked, else half of the cores, at most 4."""
    return asked or min(_MOST_THREADS, max(1, (os.cpu_count() or 2) // 2))


def too_long(has: str, name: str, takes: int) -> ConsiliumError:
    """Return the error for a text that a model cannot take whole."""
    reason = f"a text has {has} tokens, and {name} takes {takes}; cut it into passages, or set embedding.truncate"
    return ConsiliumError("invalid_request", field="input", reason=reason)
