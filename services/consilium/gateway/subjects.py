"""The subjects that an adapter's domain text lists: "Recipes, baking, and how to store food." are three.

A question is nearer to its one subject than to a sentence that lists six, so each is compared by itself. A text in whole sentences is left whole: pieces of
sentences ("and knows how") say nothing, and would draw questions that are not the adapter's. Pure. Does not know vectors.
"""

from __future__ import annotations

import re
from typing import Final

LISTED: Final = 3
"""So many pieces between commas make a list."""
WORDS: Final = 3.5
"""Most words that the pieces of a list have on average: lists measured here have 1.3 to 2.8, sentences 3.0 to 8.5."""
MOST: Final = 16
"""Subjects of one adapter that are compared by themselves."""
SHORTEST: Final = 2

_BETWEEN: Final = re.compile(r"[,;.:\n]")
_JOINED: Final = re.compile(r"\s(?:and|и)\s")
_LEADING: Final = re.compile(r"^(?:and|or|и|или)\s+")


def subjects(domain: str) -> list[str]:
    """Return the subjects that a domain text lists, each once; none where it lists none."""
    pieces = [piece for raw in _BETWEEN.split(domain) if (piece := raw.strip())]
    if len(pieces) < LISTED or sum(len(piece.split()) for piece in pieces) > WORDS * len(pieces):
        return []
    alone = (
        single.strip() for piece in pieces for single in _JOINED.split(_LEADING.sub("", piece))
    )
    return list(dict.fromkeys(each for each in alone if len(each) >= SHORTEST))[:MOST]
