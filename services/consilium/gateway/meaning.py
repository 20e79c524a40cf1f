"""Which adapter a text is nearest to by its meaning, or none: the plain model answers unless one is clearly meant.

    prototypes = Prototypes.of({"sport": (vectors, texts)}, neutral=vectors)
    found = nearest(vector, prototypes, rules)

Each adapter has several prototypes: what it is for, and questions that it should answer. Cosines of raw vectors cannot be used as they are: all questions are
alike in being questions, those of one language are alike in their language, and by how much differs between embedding models. So what neutral questions have in common
is taken off first: their mean, and the direction in which they differ most, which is the language where they are written in two. What is left is a likeness
whose zero is "no more alike than any two questions". The likeness to an adapter is half that to its nearest prototype and half that to all of them together.
A text goes to the first adapter if its likeness reaches the threshold, and is ahead of the second one's by the margin. Measured in README.md.
Pure. Does not know where vectors come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consilium.gateway.shortlist import Grouped, Outline

Vectors = NDArray[np.float32]

NOTHING_SAID: Final = "no adapter that may answer says what it is for; 'consilium adapters ls' shows the proof of each"
ENOUGH_WORDS: Final = 8
"""A text of fewer words says less by itself ("And for how long?"), and a conversation holds on to its adapter more firmly: eight words over their number."""
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
    sticky_margin  by how much another one must be ahead of the adapter that a conversation has; that one may be as much below its threshold
    """

    threshold: float = 0.22
    margin: float = 0.01
    sticky_margin: float = 0.1
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
        left = _unit(vectors) - self.mean
        return _unit(left - np.outer(left @ self.axis, self.axis))


@dataclass(frozen=True, slots=True)
class Prototypes:
    """All prototypes as one matrix (prototypes, numbers), those of each adapter side by side.

    places   name -> its place among the adapters
    texts    what each row was made from
    common   what is taken off a question, as it was off the prototypes; None = nothing
    outline  of very many prototypes
    """

    names: tuple[str, ...]
    places: Mapping[str, int]
    matrix: Vectors
    grouped: Grouped
    texts: tuple[str, ...]
    common: Common | None = None
    outline: Outline | None = None

    @classmethod
    def of(
        cls,
        adapters: Mapping[str, tuple[Vectors, Sequence[str]]],
        neutral: Vectors | None = None,
    ) -> Prototypes:
        """Return the prototypes of adapters: name -> (vectors (n, numbers), their texts)."""
        there = {name: found for name, found in adapters.items() if len(found[0])}
        common = None if neutral is None or not len(neutral) else Common.of(neutral)
        counts = np.array([len(vectors) for vectors, _ in there.values()], np.intp)
        if there:
            together = np.concatenate([vectors for vectors, _ in there.values()])
            matrix = _unit(together) if common is None else common.taken_off(together)
        else:
            matrix = np.zeros((0, 0), np.float32)
        return cls(
            tuple(there),
            {name: place for place, name in enumerate(there)},
            matrix,
            Grouped.of(matrix, counts),
            tuple(text for _, told in there.values() for text in told),
            common,
            Outline.of(matrix),
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter that was looked at: its likeness, what it needs, and its nearest prototype."""

    name: str
    score: float
    threshold: float
    text: str


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
    present: str = "",
    words: int = ENOUGH_WORDS,
    most: int = 5,
) -> Found:
    """Return who answers a text by its meaning.

    present  adapter that the conversation has: it stays unless another one is clearly ahead, or the text is clearly about something else
    words    of the text
    """
    if not prototypes.names:
        return Found("", NOTHING_SAID)
    asked = np.asarray(vector, np.float32)[None, :]
    asked = _unit(asked) if prototypes.common is None else prototypes.common.taken_off(asked)
    place = prototypes.places.get(present)
    grouped, adapters, rows = prototypes.grouped, None, None
    if prototypes.outline is not None:
        adapters = prototypes.outline.leading(asked[0], grouped)
        if place is not None:
            adapters = np.union1d(adapters, [place])
        grouped, rows = grouped.only(adapters)
    products = (prototypes.matrix if rows is None else prototypes.matrix[rows]) @ asked[0]
    scores = grouped.scores(products)

    def candidate(at: int) -> Candidate:
        start, count = int(grouped.starts[at]), int(grouped.counts[at])
        row = start + int(np.argmax(products[start : start + count]))
        name = prototypes.names[at if adapters is None else int(adapters[at])]
        text = prototypes.texts[row if rows is None else int(rows[row])]
        return Candidate(
            name, float(scores[at]), rules.own.get(name, rules.threshold), text[:SHOWN]
        )

    candidates = tuple(candidate(int(at)) for at in _highest(scores, most))
    if place is None:
        return _begun(candidates, rules)
    margin = rules.sticky_margin * max(1.0, ENOUGH_WORDS / max(1, words))
    stays = candidate(place if adapters is None else int(np.searchsorted(adapters, place)))
    return _continued(stays, candidates, rules, margin)


def _begun(candidates: tuple[Candidate, ...], rules: Rules) -> Found:
    """Decide for a text that stands alone, or follows one that nobody's adapter answered."""
    first = candidates[0]
    if first.score < first.threshold:
        why = (
            f"{first.name} is nearest with {first.score:.2f}, and answers from {first.threshold:g}"
        )
        return Found("", why, candidates)
    if len(candidates) > 1 and first.score - candidates[1].score < rules.margin:
        second = candidates[1]
        why = f"{first.name} ({first.score:.2f}) and {second.name} ({second.score:.2f}) are nearer to each other than {rules.margin:g}"
        return Found("", why, candidates)
    return Found(first.name, _nearest_to(first), candidates)


def _continued(
    stays: Candidate, candidates: tuple[Candidate, ...], rules: Rules, margin: float
) -> Found:
    """Decide for a text of a conversation that has an adapter."""
    first = candidates[0]
    if first.name == stays.name and first.score >= first.threshold:
        return Found(first.name, _nearest_to(first), candidates)
    if first.score >= first.threshold and first.score - stays.score >= margin:
        return _begun(candidates, rules)
    if stays.score + margin >= stays.threshold:
        why = f"{stays.name} goes on with {stays.score:.2f}: another one takes over when it is ahead by {margin:.2g}, and {first.name} has {first.score:.2f}"
        return Found(stays.name, why, candidates)
    return _begun(candidates, rules)


def _nearest_to(found: Candidate) -> str:
    return f"nearest to {found.text[:80]!r} with {found.score:.2f}"


def _highest(scores: Vectors, most: int) -> NDArray[np.intp]:
    """Return the places of the highest scores, the highest first."""
    if len(scores) <= most:
        return np.argsort(-scores, kind="stable")
    top = np.argpartition(-scores, most)[:most]
    return top[np.argsort(-scores[top], kind="stable")]


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found


def looked_at(text: str, most: int = LOOKED_AT) -> str:
    """Return what of a text is made a vector of: a question stands before what was pasted, or after it."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n{text[-half:]}"


def stacked(vectors: Sequence[Vectors]) -> Vectors:
    """Return vectors of one length as the rows of a matrix."""
    found: Vectors = np.stack(vectors).astype(np.float32)
    return found
