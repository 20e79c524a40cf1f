"""Which adapter a text is nearest to by its meaning, or none: the plain model answers unless one is clearly meant.

    prototypes = Prototypes.of({"sport": (vectors, texts)}, neutral=vectors)
    found = nearest(vector, prototypes, rules)

Each adapter has several prototypes: what it is for, and questions that it should answer. Cosines of raw vectors cannot be used as they are: all questions are
alike in being questions, those of one language are alike in their language, and by how much differs between embedding models. So what neutral questions have in common
is taken off first: their mean, and the direction in which they differ most, which is the language where they are written in two. What is left is a likeness
whose zero is "no more alike than any two questions". The likeness to an adapter is half that to its nearest prototype and half that to all of them together.
A text goes to the first adapter if its likeness reaches what is needed: the threshold, and more for a text that is near to everyday questions which are no adapter's,
less for one that is far from them. One or two words that are no subject of the adapter need more as well. A text that reads as a follow-up ("And for how long?") stays with whoever has the conversation. Measured in README.md.
Pure. Does not know where vectors come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consilium.gateway.shortlist import Grouped, Outline

Vectors = NDArray[np.float32]

_WORD: Final = re.compile(r"\w+")

NOTHING_SAID: Final = "no adapter that may answer says what it is for: give one a domain or examples; 'consilium adapters ls' shows which may answer"
NEAREST: Final = 3
"""So many of the nearest everyday questions, or follow-ups, tell how alike a text is to them: their mean."""
USUAL: Final = 0.2
"""Likeness of a text to everyday questions at which exactly the threshold is needed: half of nobody's questions have more."""
SHARE: Final = 0.5
"""Of the likeness to everyday questions above or below the usual one, this share is needed more or less."""
CLAIMED: Final = 0.2
"""Everyday questions to which some adapter is so alike are that adapter's, and hold no text back."""
SMALL_TALK_CLAIMED: Final = 0.45
"""Small talk to which some adapter is so alike is that adapter's: single words are up to 0.4 alike to a subject that has nothing to do with them."""
FOLLOWS: Final = 0.25
"""Likeness to typical follow-ups from which a text reads as one."""
FEW_WORDS: Final = 3
"""A text of so many words or fewer reads as a follow-up in any case."""
BRIEF_WORDS: Final = 2
BRIEF: Final = 0.1
"""A text of so few words needs so much more, and never less than the threshold: a word alone is somewhat like any other word."""
LEAD: Final = 0.25
"""By how much an adapter must be ahead to take a conversation over at what reads as a follow-up."""
LOOKED_AT: Final = 800
"""Characters of a text that are made a vector of: the offline models take 512 tokens, and twice the length costs twice the time."""
SURELY_TAKEN: Final = 200
"""Characters that every model takes, in any script."""
SHOWN: Final = 200
"""Characters of a prototype that a candidate tells."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits, all of them values or differences of a likeness: 0 = no more alike than any two questions, 1 = the same.

    threshold      least likeness of the adapter that answers; `own` has those of single adapters
    margin         by how much the first adapter must be ahead of the second
    sticky_margin  by how much another one must be ahead of the adapter that a conversation has; that one may be as much below what is needed
    """

    threshold: float = 0.22
    margin: float = 0.0
    sticky_margin: float = 0.02
    own: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Common:
    """What neutral questions have in common. Both are taken off a vector before it is compared.

    mean  (numbers)
    axis  (numbers), of length one, or zeros: the direction in which they differ most
    """

    mean: Vectors
    axis: Vectors

    @classmethod
    def of(cls, neutral: Vectors) -> Common:
        """Return what the vectors of neutral questions have in common: (texts, numbers)."""
        rows = _unit(neutral)
        mean = rows.mean(axis=0)
        spread, axes = np.linalg.svd(rows - mean, full_matrices=False)[1:]
        axis = axes[0] if spread[0] > 1e-3 else np.zeros_like(mean)
        return cls(mean, axis)

    def taken_off(self, vectors: Vectors) -> Vectors:
        """Return vectors (n, numbers) without it, of length one."""
        left: Vectors = _unit(vectors) - self.mean
        along: Vectors = (left @ self.axis).astype(np.float32, copy=False)
        left -= along[:, None] * self.axis
        return _unit(left)


@dataclass(frozen=True, slots=True)
class Prototypes:
    """All prototypes as one matrix (prototypes, numbers), those of each adapter side by side.

    places      name -> its place among the adapters
    texts       what each row was made from
    common      what is taken off a question, as it was off the prototypes; None = nothing
    outline     of very many prototypes
    everyday    everyday questions that are no adapter's, and small talk: (texts, numbers)
    follow_ups  typical follow-ups: (texts, numbers)
    """

    names: tuple[str, ...]
    places: Mapping[str, int]
    matrix: Vectors
    grouped: Grouped
    texts: tuple[str, ...]
    common: Common | None = None
    outline: Outline | None = None
    everyday: Vectors | None = None
    follow_ups: Vectors | None = None

    @classmethod
    def of(
        cls,
        adapters: Mapping[str, tuple[Vectors, Sequence[str]]],
        neutral: Vectors | None = None,
        follow_ups: Vectors | None = None,
        small_talk: Vectors | None = None,
    ) -> Prototypes:
        """Return the prototypes of adapters: name -> (vectors (n, numbers), their texts). Follow-ups and small talk count only where there are neutral questions."""
        there = {name: found for name, found in adapters.items() if len(found[0])}
        common = None if neutral is None or not len(neutral) else Common.of(neutral)
        counts = np.array([len(vectors) for vectors, _ in there.values()], np.intp)
        if there:
            together = np.concatenate([vectors for vectors, _ in there.values()])
            matrix = _unit(together) if common is None else common.taken_off(together)
        else:
            matrix = np.zeros((0, 0), np.float32)
        grouped = Grouped.of(matrix, counts)
        everyday = None
        if there and common is not None and neutral is not None:
            everyday = _unclaimed(common.taken_off(neutral), matrix, grouped, CLAIMED)
            if small_talk is not None:
                told = common.taken_off(small_talk)
                told = _unclaimed(told, matrix, grouped, SMALL_TALK_CLAIMED)
                everyday = np.concatenate([everyday, told])
        return cls(
            tuple(there),
            {name: place for place, name in enumerate(there)},
            matrix,
            grouped,
            tuple(text for _, told in there.values() for text in told),
            common,
            Outline.of(matrix),
            everyday,
            None if common is None or follow_ups is None else common.taken_off(follow_ups),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter that was looked at: its likeness, what it needs to answer this text, its nearest prototype, and what of the need is the text's own.

    more   for being like everyday questions, or less for being unlike them
    brief  for being a word or two that are no subject of the adapter
    """

    name: str
    score: float
    threshold: float
    text: str
    more: float = 0.0
    brief: float = 0.0

    @property
    def needs(self) -> str:
        """Return what it needs, in words."""
        told = []
        if abs(self.more) >= 0.0005:
            why = "more for being like" if self.more > 0 else "less for being unlike"
            told.append(f"{abs(self.more):.3f} {why} everyday questions")
        if self.brief:
            told.append(f"{self.brief:.3f} more for being so short")
        if not told:
            return f"{self.threshold:.3f}"
        return f"{self.threshold:.3f}, of which the text has {' and '.join(told)}"


@dataclass(frozen=True, slots=True)
class Found:
    """The decision: the adapter, or "" for nobody, in words, and the best candidates."""

    name: str
    why: str
    candidates: tuple[Candidate, ...] = ()


def nearest(
    vector: Sequence[float] | Vectors,
    prototypes: Prototypes,
    rules: Rules,
    *,
    present: str | None = None,
    words: int = FEW_WORDS + 1,
    brief: frozenset[str] = frozenset(),
    most: int = 5,
) -> Found:
    """Return who answers a text by its meaning.

    present  who has the conversation: an adapter, "" = the plain model, None = nobody, since the text begins it or stands alone
    words    of the text
    brief    its words themselves, where they are one or two (`brief_words`)
    most     candidates that are told; two decide
    """
    if not prototypes.names:
        return Found("", NOTHING_SAID)
    row = np.asarray(vector, np.float32)[None, :]
    asked = (_unit(row) if prototypes.common is None else prototypes.common.taken_off(row))[0]
    place = prototypes.places.get(present or "")
    grouped, adapters, rows = prototypes.grouped, None, None
    if prototypes.outline is not None:
        adapters = prototypes.outline.leading(asked, grouped)
        if place is not None and place not in adapters:
            adapters = np.append(adapters, place)
        grouped, rows = grouped.only(adapters)
    products = (prototypes.matrix if rows is None else prototypes.matrix[rows]) @ asked
    scores = grouped.scores(products)
    more = SHARE * (max(0.0, _likeness(asked, prototypes.everyday, USUAL)) - USUAL)

    def candidate(at: int) -> Candidate:
        start, count = int(grouped.starts[at]), int(grouped.counts[at])
        row = start + int(np.argmax(products[start : start + count]))
        name = prototypes.names[at if adapters is None else int(adapters[at])]
        text = prototypes.texts[row if rows is None else int(rows[row])]
        needed, own = rules.own.get(name, rules.threshold), more
        extra = 0.0
        if brief and brief.isdisjoint(_words(text)):
            own, extra = max(0.0, more), BRIEF
        return Candidate(name, float(scores[at]), needed + own + extra, text[:SHOWN], own, extra)

    candidates = tuple(candidate(int(at)) for at in _highest(scores, most))
    if present is None:
        return _begun(candidates, rules)
    follows = words <= FEW_WORDS or _likeness(asked, prototypes.follow_ups, 0.0) >= FOLLOWS
    if place is None:
        return _plain_before(candidates, rules, follows=follows)
    stays = candidate(place if adapters is None else int(np.flatnonzero(adapters == place)[0]))
    return _continued(stays, candidates, rules, follows=follows)


def _begun(candidates: tuple[Candidate, ...], rules: Rules) -> Found:
    """Decide for a text that stands alone."""
    first = candidates[0]
    if first.score < first.threshold:
        why = f"{first.name} is nearest with {first.score:.3f}, and answers from {first.needs}"
        return Found("", why, candidates)
    if len(candidates) > 1 and first.score - candidates[1].score < rules.margin:
        second = candidates[1]
        why = f"{first.name} ({first.score:.2f}) and {second.name} ({second.score:.2f}) are nearer to each other than {rules.margin:g}"
        return Found("", why, candidates)
    return Found(first.name, _nearest_to(first), candidates)


def _plain_before(candidates: tuple[Candidate, ...], rules: Rules, *, follows: bool) -> Found:
    """Decide for a text of a conversation in which the plain model answered last."""
    first = candidates[0]
    if follows and first.threshold <= first.score < first.threshold + LEAD:
        why = f"the plain model goes on with what reads as a follow-up: {first.name} has {first.score:.2f}, and takes it over from {first.threshold + LEAD:.2f}"
        return Found("", why, candidates)
    return _begun(candidates, rules)


def _continued(
    stays: Candidate, candidates: tuple[Candidate, ...], rules: Rules, *, follows: bool
) -> Found:
    """Decide for a text of a conversation that has an adapter."""
    first = candidates[0]
    if first.name == stays.name and first.score >= first.threshold:
        return Found(first.name, _nearest_to(first), candidates)
    lead = max(LEAD, rules.sticky_margin) if follows else rules.sticky_margin
    if first.score >= first.threshold and first.score - stays.score >= lead:
        return _begun(candidates, rules)
    if follows:
        why = f"{stays.name} goes on with what reads as a follow-up: another one takes it over when it is ahead by {lead:g}, and {first.name} has {first.score:.2f} against {stays.score:.2f}"
        return Found(stays.name, why, candidates)
    if stays.score + lead >= stays.threshold:
        why = f"{stays.name} goes on with {stays.score:.2f}: another one takes over when it is ahead by {lead:g}, and {first.name} has {first.score:.2f}"
        return Found(stays.name, why, candidates)
    return _begun(candidates, rules)


def _likeness(asked: Vectors, texts: Vectors | None, otherwise: float) -> float:
    """Return the mean likeness of a text to the nearest few of these, or `otherwise` where there are too few."""
    if texts is None or len(texts) < NEAREST:
        return otherwise
    return float(np.partition(texts @ asked, -NEAREST)[-NEAREST:].sum()) / NEAREST


def _unclaimed(everyday: Vectors, matrix: Vectors, grouped: Grouped, claimed: float) -> Vectors:
    """Return the everyday texts that are no adapter's: to which none is so alike."""
    best = [float(grouped.scores(products).max()) for products in everyday @ matrix.T]
    return everyday[np.array(best) < claimed]


def _nearest_to(found: Candidate) -> str:
    return f"nearest to {found.text[:80]!r} with {found.score:.2f}"


def _highest(scores: Vectors, most: int) -> NDArray[np.intp]:
    """Return the places of the highest scores, the highest first."""
    if len(scores) <= most:
        return np.argsort(-scores, kind="stable")
    top = np.argpartition(-scores, most)[:most]
    return top[np.argsort(-scores[top], kind="stable")]


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    found: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32, copy=False)
    return found


def looked_at(text: str, most: int = LOOKED_AT) -> str:
    """Return what of a text is made a vector of: a question stands before what was pasted, or after it."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n{text[-half:]}"


def brief_words(text: str) -> frozenset[str]:
    """Return the words of a text that has one or two, none of a longer one."""
    pieces = text.split(maxsplit=BRIEF_WORDS)
    return frozenset(_words(text) or pieces) if len(pieces) <= BRIEF_WORDS else frozenset()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def stacked(vectors: Sequence[Vectors]) -> Vectors:
    """Return vectors of one length as the rows of a matrix."""
    found: Vectors = np.stack(vectors).astype(np.float32)
    return found
