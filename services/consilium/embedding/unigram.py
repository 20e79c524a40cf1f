"""SentencePiece's unigram model: a text becomes the row of pieces that is likeliest together.

Words are cut one by one, which gives the same as cutting the text whole, since no piece reaches over a space; words seen before are remembered. Its dictionary
takes 50 MB where the `tokenizers` library takes 215 MB and a second to build its own. Knows pieces and their chances. Does not know files or models.
Source of the rules: Kudo 2018 (arXiv:1804.10959) and sentencepiece's own unigram_model.cc: the best path, an unknown character at 10 below the rarest piece.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

SPACE: Final = "\u2581"
"""Stands for the space before a word."""

_UNKNOWN_PENALTY: Final = 10.0
_WORDS_REMEMBERED: Final = 16_384
_SPACES: Final = re.compile(" {2,}")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model was trained with.

    ids         piece -> id; without the special ones, so that no text can spell them
    chances     natural logarithm of each id's probability
    characters  code point -> what stands for it after normalising
    """

    ids: Mapping[str, int]
    chances: array[float]
    characters: Mapping[int, str]
    start: int
    end: int
    unknown: int


class Unigram:
    """Cuts texts into ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._known = vocabulary
        self._unknown_chance = min(vocabulary.chances) - _UNKNOWN_PENALTY
        self.longest = max(map(len, vocabulary.ids))
        """Characters of the longest piece."""
        self._word = lru_cache(_WORDS_REMEMBERED)(self._cut)

    def ids(self, text: str, most: int) -> tuple[list[int], bool]:
        """Return the ids of a text between start and end, and whether that is the whole text.

        most  ids at most, the two ends included. A text that cannot fit is not cut to its end, so that a huge one costs no more than one of `most` ids.
        """
        words = self._normal(text)
        room = most - 2
        found: list[int] = []
        at, whole = 0, True
        while at < len(words):
            if len(found) >= room:
                whole = False
                break
            ends = words.find(SPACE, at + 1)
            word = words[at : ends if ends > 0 else len(words)]
            at += len(word)
            piece = self._word(word[: room * self.longest])
            whole = whole and len(word) <= room * self.longest
            found += piece
        whole = whole and len(found) <= room
        return [self._known.start, *found[:room], self._known.end], whole

    def _normal(self, text: str) -> str:
        """Return the text as the vocabulary spells it: composed, one space between words and one before the first."""
        composed = unicodedata.normalize("NFC", text).translate(self._known.characters)
        single = _SPACES.sub(" ", composed)
        return (single if single.startswith(" ") else f" {single}").replace(" ", SPACE)

    def _cut(self, word: str) -> tuple[int, ...]:
        """Return the ids of the likeliest row of pieces (Viterbi)."""
        ids, chances, unknown = self._known.ids, self._known.chances, self._known.unknown
        size = len(word)
        best = [0.0] + [float("-inf")] * size
        came: list[tuple[int, int]] = [(0, 0)] * (size + 1)
        for left in range(size):
            here = best[left]
            for right in range(left + 1, min(size, left + self.longest) + 1):
                number = ids.get(word[left:right])
                if number is not None and here + chances[number] > best[right]:
                    best[right] = here + chances[number]
                    came[right] = (left, number)
            if here + self._unknown_chance > best[left + 1]:
                best[left + 1] = here + self._unknown_chance
                came[left + 1] = (left, unknown)
        found = []
        while size:
            size, number = came[size]
            found.append(number)
        return tuple(reversed(found))
