"""Rules for vectors: unit length, shorter ones, a sum of tokens divided over texts.

Knows numbers. Does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consilium.embedding.ports import Array


def normalised(values: Array) -> Array:
    """Return the rows with length 1, float32; a row of zeros stays."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    result: Array = (values / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return result


def shortened(values: Array, dimensions: int | None) -> Array:
    """Return the first `dimensions` numbers of each row, with length 1 again; None or the full width changes nothing."""
    if dimensions is None or dimensions == values.shape[1]:
        return values
    return normalised(values[:, :dimensions])


def divided(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """Return whole numbers in proportion to `weights` whose sum is `total` (largest remainder)."""
    whole = sum(weights)
    if not whole:
        return tuple(0 for _ in weights)
    parts = [total * weight // whole for weight in weights]
    rest = sorted(range(len(weights)), key=lambda index: (-(total * weights[index] % whole), index))
    for index in rest[: total - sum(parts)]:
        parts[index] += 1
    return tuple(parts)
