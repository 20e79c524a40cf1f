"""When answers of a random model count as the same. Several ranks add in another order than one, and a batch rounds otherwise than a single prompt: a near tie of two tokens may
fall the other way, and what follows it is another text. A rank that computes wrong differs from the first token on."""

from __future__ import annotations

SHARE = 0.25


def alike(*texts: str) -> bool:
    """Whether all texts begin alike, for at least a quarter of the longest."""
    begin = next(
        (i for i, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1),
        min(map(len, texts)),
    )
    return 0 < begin >= SHARE * max(map(len, texts))
