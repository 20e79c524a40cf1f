"""MiniLM and multilingual e5 side by side: one vector of 768 numbers that is comparable across languages, and as good as MiniLM in English.

A vector holds both models' vectors, each times a weight, number by number in turn (so that a vector that is cut keeps both). The product of two vectors is
therefore the weighted sum of the two models' similarities: 0.15 of MiniLM's and 0.85 of e5's, whose values lie much closer together. MiniLM reads Latin letters
only. In its place a text in another script holds a constant, and a question in one holds nothing: it is compared by e5 alone.
Measured in README.md. Does not know who asks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from consilium.embedding.backends import e5, minilm
from consilium.embedding.backends.offline import Row
from consilium.embedding.backends.one_model import Options
from consilium.embedding.ports import Array, Fingerprint, Kind

NAME: Final = "minilm-e5"
MINILM_SHARE: Final = 0.15
LATIN_SHARE: Final = 0.85
"""Of a text's letters, for MiniLM to read it. English pages of documentation have 0.97 and more, Russian ones, with all their code, 0.71 and less (measured)."""
_RECIPE: Final = "1"
"""Changes whenever the same two models would give other vectors."""
_LATIN: Final = re.compile(r"[A-Za-z]+")
_OTHER: Final = re.compile(r"[^\W\d_A-Za-z]+")


class MiniLmE5:
    """Both models as one."""

    name = NAME
    dimensions = minilm.MiniLM.dimensions + e5.E5.dimensions

    def __init__(self, options: Options) -> None:
        # How long a text may be is e5's to say: MiniLM reads as much as it can.
        self._minilm = minilm.MiniLM(replace(options, truncate=True))
        self._e5 = e5.E5(options)
        self._unread: Array = np.resize(
            np.array([1, -1], dtype=np.float32), minilm.MiniLM.dimensions
        ) / math.sqrt(minilm.MiniLM.dimensions)

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""
        english, both = self._minilm.fingerprint(), self._e5.fingerprint()
        return Fingerprint(
            f"{NAME}: {english.model} and {both.model}",
            f"{english.revision} {both.revision} {_RECIPE}",
            self.dimensions,
            f"mean, {MINILM_SHARE} of MiniLM",
            english.query_prefix,
            english.passage_prefix,
            max_tokens=both.max_tokens,
        )

    def load(self) -> None:
        """Open both. Raises ConsiliumError(config_invalid)."""
        self._minilm.load()
        self._e5.load()

    def rows(self, texts: Sequence[str], kind: Kind) -> list[Row]:
        """Return the tokens of each text for both models. Raises ConsiliumError(invalid_request) if one is too long."""
        found = self._e5.rows(texts, kind)
        latin = [number for number, text in enumerate(texts) if is_latin(text)]
        for number, row in zip(
            latin, self._minilm.rows([texts[number] for number in latin], kind), strict=True
        ):
            found[number] = Row(found[number].ids, row.ids)
        if kind == "query":
            for number in set(range(len(texts))) - set(latin):
                found[number] = Row(found[number].ids, alone=True)
        return found

    def vectors(self, rows: Sequence[Row]) -> Array:
        """Return one unit vector per row."""
        made = np.empty((len(rows), self.dimensions), dtype=np.float32)
        made[:, 0::2] = math.sqrt(MINILM_SHARE) * self._unread
        made[:, 1::2] = math.sqrt(1 - MINILM_SHARE) * self._e5.vectors(rows)
        latin = [number for number, row in enumerate(rows) if row.beside is not None]
        if latin:
            english = self._minilm.vectors([Row(rows[number].beside or []) for number in latin])
            made[latin, 0::2] = math.sqrt(MINILM_SHARE) * english
        alone = [number for number, row in enumerate(rows) if row.alone]
        made[alone, 0::2] = 0
        made[alone, 1::2] /= math.sqrt(1 - MINILM_SHARE)
        return made


def is_latin(text: str) -> bool:
    """Return whether MiniLM can read a text: nearly all of its letters are Latin, or it has none."""
    latin = sum(map(len, _LATIN.findall(text)))
    other = sum(map(len, _OTHER.findall(text)))
    return latin >= LATIN_SHARE * (latin + other)
