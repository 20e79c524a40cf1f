"""Paired ratios with a bootstrap interval.

Knows lists of floats. Does not know what they measure.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of paired ratios and its 95 % bootstrap interval."""

    mid: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mid:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: list[float], *, rounds: int = 2000, seed: int = 7) -> Ratio:
    """Return the median of `values` with a percentile bootstrap interval (Efron 1979), seeded."""
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(values, k=len(values))) for _ in range(rounds))
    return Ratio(median(values), medians[int(0.025 * rounds)], medians[int(0.975 * rounds)])


def verdict(ours: Ratio, floor: Ratio, bar: float, *, at_least: bool) -> str:
    """Say in words whether a bar is met, and whether the figure lies beyond the noise floor of the peer against itself."""
    met = ours.mid >= bar if at_least else ours.mid <= bar
    beyond = ours.high < floor.low or ours.low > floor.high
    word = "met" if met else "missed"
    return f"{word} (bar {'>=' if at_least else '<='} {bar:g}), {'beyond' if beyond else 'within'} the noise floor"
