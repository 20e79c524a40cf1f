"""Which adapter a text is nearest to, by its meaning, or none: who is not clearly asked for does not answer.

    prototypes = Prototypes.of({"sport": (vectors, texts)}, neutral=vectors)
    found = nearest(vector, prototypes, rules)

Each adapter has several prototypes: what it is for, and questions that it should answer. A text belongs to the adapter of its nearest one, if that is near enough
(threshold), ahead of the next adapter (margin), and ahead of texts that belong to nobody (neutral). Vectors have length one, so a product is a cosine.
Pure. Does not know where vectors come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits, all of them differences or values of a cosine.

    threshold      least likeness; `own` has those of single adapters
    margin         by how much the first adapter is ahead of the second, and of what belongs to nobody
    sticky_margin  by how much another one is ahead of the adapter that a conversation has
    """

    threshold: float = 0.45
    margin: float = 0.03
    sticky_margin: float = 0.08
    own: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prototypes:
    """All prototypes as one matrix (prototypes, numbers), those of each adapter side by side.

    starts   first row of each adapter
    texts    what each row was made from
    neutral  (texts, numbers): questions that belong to no adapter
    """

    names: tuple[str, ...]
    matrix: Vectors
    starts: NDArray[np.intp]
    texts: tuple[str, ...]
    neutral: Vectors | None = None

    @classmethod
    def of(
        cls,
        adapters: Mapping[str, tuple[Vectors, Sequence[str]]],
        neutral: Vectors | None = None,
    ) -> Prototypes:
        """Return the prototypes of adapters: name -> (vectors (n, numbers), their texts)."""
        there = {name: found for name, found in adapters.items() if len(found[0])}
        counts = [len(vectors) for vectors, _ in there.values()]
        starts = np.cumsum([0, *counts[:-1]]).astype(np.intp) if counts else np.zeros(0, np.intp)
        rows = [_unit(vectors) for vectors, _ in there.values()]
        matrix = np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)
        texts = tuple(text for _, told in there.values() for text in told)
        return cls(tuple(there), matrix, starts, texts, None if neutral is None else _unit(neutral))


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
    most: int = 5,
) -> Found:
    """Return who answers a text by its meaning.

    present  adapter that the conversation has: it stays unless another one is clearly ahead
    """
    if not prototypes.names:
        return Found("", "no adapter says what it is for")
    asked = _unit(np.asarray(vector, np.float32)[None, :])[0]
    scores = prototypes.matrix @ asked
    best = np.maximum.reduceat(scores, prototypes.starts)
    order = np.argsort(-best)[:most]
    ends = [*prototypes.starts[1:], len(scores)]
    candidates = []
    for at in order:
        start = int(prototypes.starts[at])
        row = start + int(np.argmax(scores[start : ends[at]]))
        name = prototypes.names[at]
        needed = rules.own.get(name, rules.threshold)
        candidates.append(Candidate(name, float(best[at]), needed, prototypes.texts[row][:200]))
    first = candidates[0]
    nobody = -1.0
    if prototypes.neutral is not None and len(prototypes.neutral):
        nobody = float(np.max(prototypes.neutral @ asked))
    return _decided(first, tuple(candidates), nobody, rules, present)


def _decided(
    first: Candidate, all_: tuple[Candidate, ...], nobody: float, rules: Rules, present: str
) -> Found:
    stays = next((each for each in all_ if each.name == present), None)
    if (
        stays is not None
        and stays.name != first.name
        and first.score - stays.score < rules.sticky_margin
        and stays.score >= stays.threshold
    ):
        why = f"{present} goes on: {first.name} is ahead by {first.score - stays.score:.2f}, and takes over at {rules.sticky_margin:g}"
        return Found(present, why, all_)
    if first.score < first.threshold:
        why = (
            f"{first.name} is nearest with {first.score:.2f}, and answers from {first.threshold:g}"
        )
        return Found("", why, all_)
    second = all_[1].score if len(all_) > 1 else -1.0
    if first.name != present and first.score - second < rules.margin:
        why = f"{first.name} ({first.score:.2f}) and {all_[1].name} ({second:.2f}) are nearer to each other than {rules.margin:g}"
        return Found("", why, all_)
    if first.score - nobody < rules.margin:
        why = f"{first.name} is nearest with {first.score:.2f}, and so are questions that belong to nobody ({nobody:.2f})"
        return Found("", why, all_)
    return Found(first.name, f"nearest to {first.text[:80]!r} with {first.score:.2f}", all_)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return found


def stacked(vectors: Sequence[Vectors]) -> Vectors:
    """Return vectors of one length as the rows of a matrix."""
    found: Vectors = np.stack(vectors).astype(np.float32)
    return found
