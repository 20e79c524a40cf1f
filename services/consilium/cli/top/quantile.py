"""Quantiles of a histogram, as Prometheus computes them.

Pure. Source: Prometheus, `histogram_quantile` (promql/quantile.go, bucketQuantile).
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """Return the value below which a share of the observations lies, in the unit of the buckets; None where there is none.

    share    0 to 1
    buckets  upper bound -> observations up to it; the highest bound must be infinite

    Inside a bucket the observations are taken to lie evenly. What lies in the last one is told as the highest finite bound.
    """
    bounds = sorted(buckets)
    if len(bounds) < 2 or bounds[-1] != math.inf:
        return None
    counts: list[float] = []
    for bound in bounds:  # counters that were read one after another may be a little behind
        counts.append(max(buckets[bound], counts[-1] if counts else 0.0))
    total = counts[-1]
    if total <= 0:
        return None
    rank = share * total
    at = next((at for at, count in enumerate(counts[:-1]) if count >= rank), len(bounds) - 1)
    if at == len(bounds) - 1:
        return bounds[-2]
    if at == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    inside = counts[at] - below
    return start + (bounds[at] - start) * ((rank - below) / inside) if inside else bounds[at]
