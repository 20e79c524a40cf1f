"""Many texts in several calls, and their vectors together again.

Knows order and numbers. Does not know who is called.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from consilium.embedding.ports import Vectors


async def in_batches(
    texts: Sequence[str], size: int, call: Callable[[Sequence[str]], Awaitable[Vectors]]
) -> Vectors:
    """Return one vector per text, in their order, asking for at most `size` at once."""
    parts = [await call(texts[start : start + size]) for start in range(0, len(texts), size)]
    return Vectors(
        np.concatenate([part.values for part in parts]),
        tuple(count for part in parts for count in part.tokens),
    )
