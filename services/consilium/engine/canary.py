"""Whether an adapter does anything, and whether that is sane: what it writes against what the plain model writes.

Fixed texts, the likeliest tokens, no draw. The plain model is asked twice, in batches of other sizes: how far it is from itself is the noise. Pure: figures in, a
verdict out. Does not know engines, and does not know what an adapter is meant to do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Proof = Literal["ok", "no_effect", "degenerate"]

WRITTEN: Final = 16
"""Tokens that are written to each opening."""
TOPS: Final = 20
"""Likeliest tokens that are looked at in each step."""
OPENINGS: Final = (
    "The old lighthouse keeper opened the door and",
    "To cook rice for four people, first",
    "Утром на станции было тихо, и дежурный",
    "Чтобы починить велосипед, сначала нужно",
)
NEUTRAL: Final = (
    "The river flows from the mountains to the sea, and in spring the snow melts and the water rises over the fields.",
    "Вода в реке поднимается весной, когда в горах тает снег, и поля вдоль берега остаются мокрыми до лета.",
)
"""Texts that a sound model finds likely enough, whatever it was taught besides."""
PLACES: Final = 8
"""Places in each neutral text at which the next token is guessed."""

LEAST_NOISE: Final = 0.03
"""One step of bfloat16 in a logit of 4 to 8: a change too small for the model flips it."""
CLEAR: Final = 3.0
"""An effect is this many times the noise."""
WORSE_NATS: Final = 3.0
"""A loss on neutral text that is so much larger is no style any more."""
LOOP: Final = 3
"""A text that ends in repetitions of at most so many tokens is a loop."""
NEAR: Final = 0.5
"""Fingerprints of one adapter differ by less than this in a logprob, over batches and kinds of cards."""


@dataclass(frozen=True, slots=True)
class Step:
    """One token: itself, its logprob, and the likeliest ones with theirs."""

    token: int
    logprob: float
    tops: Mapping[int, float]


Written = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """What one model wrote to the openings, and how it guessed the neutral texts: the logprob of each next token, or of less than the likeliest ones."""

    written: tuple[Written, ...]
    guessed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a trial. `figures` and `fingerprint` are JSON; `finite` is false where what was written is no number."""

    proof: Proof
    figures: str
    fingerprint: str
    finite: bool = True


def judge(base: Trial, again: Trial, adapted: Trial) -> Verdict:
    """Return the verdict on an adapter.

    base, again  the plain model, in a large batch and one by one
    adapted      the model with the adapter, as `base`
    """
    noise = max(LEAST_NOISE, distance(base, again))
    effect = distance(base, adapted)
    worse = _loss(adapted) - _loss(base)
    loops = _loops(adapted) - _loops(base)
    broken = not _is_finite(adapted)
    changed = sum(
        [step.token for step in one] != [step.token for step in other]
        for one, other in zip(base.written, adapted.written, strict=True)
    )
    proof: Proof = "ok"
    if broken or worse > WORSE_NATS or loops > len(OPENINGS) // 2:
        proof = "degenerate"
    elif effect < CLEAR * noise:
        proof = "no_effect"
    figures = {
        "effect": _shown(effect),
        "noise": _shown(noise),
        "answers_changed": changed,
        "answers": len(base.written),
        "loss_plain": _shown(_loss(base)),
        "loss_adapted": _shown(_loss(adapted)),
        "loops": loops,
        "finite": not broken,
    }
    return Verdict(proof, json.dumps(figures), fingerprint(adapted), not broken)


def distance(one: Trial, other: Trial) -> float:
    """Return the largest difference of a logprob while both have written the same: in each opening up to where they part, and in all guesses."""
    found = [0.0]
    for a, b in zip(one.written, other.written, strict=True):
        for first, second in zip(a, b, strict=False):
            found.append(_apart(first, second))
            if first.token != second.token:
                break
    found += [abs(a - b) for a, b in zip(one.guessed, other.guessed, strict=True)]
    return max(math.inf if math.isnan(value) else value for value in found)


def fingerprint(trial: Trial) -> str:
    """Return what is compared after each load: the first token of each opening and the likeliest ones beside it."""
    return json.dumps(
        [
            [
                written[0].token,
                {str(token): _shown(logprob) for token, logprob in _first(written[0].tops, 5)},
            ]
            for written in trial.written
            if written
        ]
    )


def agrees(kept: str, seen: str) -> bool:
    """Say whether two fingerprints are of one adapter: three openings of four begin alike, within the noise of batches and cards."""
    try:
        pairs = list(zip(json.loads(kept), json.loads(seen), strict=True))
        alike = [_begins_alike(a, b) for a, b in pairs]
    except (ValueError, TypeError, IndexError, AttributeError):
        return False
    return sum(alike) >= math.ceil(0.75 * len(alike))


def _begins_alike(a: Sequence[object], b: Sequence[object]) -> bool:
    tops, others = dict(a[1]), dict(b[1])  # type: ignore[call-overload]  # JSON of ours
    if str(a[0]) not in others or str(b[0]) not in tops:
        return False
    common = tops.keys() & others.keys()
    return all(abs(float(tops[token]) - float(others[token])) <= NEAR for token in common)


def _apart(a: Step, b: Step) -> float:
    """Return how far two steps are apart: over the tokens that are likely in both; one that is not among the other's is at most as likely as its least."""
    floor_a, floor_b = min(a.tops.values(), default=0.0), min(b.tops.values(), default=0.0)
    likely = {token for token, _ in (*_first(a.tops, 5), *_first(b.tops, 5))}
    return max(
        (abs(a.tops.get(t, floor_a) - b.tops.get(t, floor_b)) for t in likely),
        default=abs(a.logprob - b.logprob),
    )


def _first(tops: Mapping[int, float], count: int) -> list[tuple[int, float]]:
    return sorted(tops.items(), key=lambda item: -item[1])[:count]


def _loss(trial: Trial) -> float:
    return -sum(trial.guessed) / len(trial.guessed) if trial.guessed else 0.0


def _loops(trial: Trial) -> int:
    return sum(_is_loop([step.token for step in written]) for written in trial.written)


def _is_loop(tokens: Sequence[int]) -> bool:
    """Say whether a text ends in one to three tokens over and over."""
    tail = tokens[-4 * LOOP :]
    return len(tail) == 4 * LOOP and any(
        tail[:-period] == tail[period:] for period in range(1, LOOP + 1)
    )


def _is_finite(trial: Trial) -> bool:
    steps = [step for written in trial.written for step in written]
    values = [*trial.guessed, *(step.logprob for step in steps)]
    return all(written for written in trial.written) and all(math.isfinite(v) for v in values)


def _shown(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
