"""The adapters that are worth an exact look, where there are very many.

A thousand adapters have 12 MB of prototypes, and reading them is all the time that a decision takes. Prototypes and question are therefore compared along a few
directions first, those in which the prototypes differ most, and only the adapters that lead there are compared in full. How often the first one
is not among them is measured in README.md. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

MANY: Final = 2048
"""Up to so many prototypes all are compared: 0.1 ms."""
DIRECTIONS: Final = 128
KEPT: Final = 64
PASSES: Final = 2
"""Of the subspace iteration that finds the directions. They need not be exact."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Prototypes of adapters, those of each side by side.

    starts  first row of each adapter
    counts  rows of each adapter
    shares  what the sum of an adapter's products is multiplied with to become the cosine to the sum of its prototypes
    """

    starts: NDArray[np.intp]
    counts: NDArray[np.intp]
    shares: Vectors

    @classmethod
    def of(cls, matrix: Vectors, counts: NDArray[np.intp]) -> Grouped:
        """Return how the rows of a matrix belong together. No count is zero."""
        starts = np.cumsum(counts) - counts
        lengths = np.linalg.norm(np.add.reduceat(matrix, starts, axis=0), axis=1)
        return cls(starts, counts, (1 / np.maximum(lengths, 1e-12)).astype(np.float32))

    def scores(self, products: Vectors) -> Vectors:
        """Return the likeness of each adapter from the products of its prototypes: half the nearest, half all of them together."""
        best: Vectors = np.maximum.reduceat(products, self.starts)
        together = np.add.reduceat(products, self.starts)
        together *= self.shares
        best += together
        best *= 0.5
        return best

    def only(self, adapters: NDArray[np.intp]) -> tuple[Grouped, NDArray[np.intp]]:
        """Return these adapters alone, and their rows in the whole matrix."""
        counts = self.counts[adapters]
        starts = np.cumsum(counts) - counts
        rows = np.repeat(self.starts[adapters] - starts, counts) + np.arange(counts.sum())
        return Grouped(starts, counts, self.shares[adapters]), rows


@dataclass(frozen=True, slots=True)
class Outline:
    """Prototypes along a few directions.

    axes  (DIRECTIONS, numbers)
    rows  (prototypes, DIRECTIONS)
    """

    axes: Vectors
    rows: Vectors

    @classmethod
    def of(cls, matrix: Vectors, many: int = MANY) -> Outline | None:
        """Return the outline of prototypes (prototypes, numbers), or None where there are few. Takes 0.1 s for 4000 of 768 numbers."""
        if len(matrix) <= many or matrix.shape[1] <= DIRECTIONS:
            return None
        dice = np.random.default_rng(1)
        axes = dice.normal(size=(matrix.shape[1], DIRECTIONS)).astype(np.float32)
        for _ in range(PASSES):
            axes = np.linalg.qr(matrix.T @ (matrix @ axes)).Q
        return cls(np.ascontiguousarray(axes.T), np.ascontiguousarray(matrix @ axes))

    def leading(self, asked: Vectors, grouped: Grouped) -> NDArray[np.intp]:
        """Return the adapters that lead along these directions, in no order."""
        scores = grouped.scores(self.rows @ (self.axes @ asked))
        if len(scores) <= KEPT:
            return np.arange(len(scores))
        return np.argpartition(scores, len(scores) - KEPT)[-KEPT:]
