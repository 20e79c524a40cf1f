"""Quantiles of histograms: the cases of Prometheus' own documentation and code."""

from math import inf

import pytest

from consilium.cli.top.quantile import quantile


@pytest.mark.parametrize(
    ("share", "buckets", "expected"),
    [
        (0.5, {0.1: 0, 0.2: 10, inf: 10}, 0.15),  # inside a bucket, evenly
        (0.5, {0.1: 10, 0.2: 10, inf: 10}, 0.05),  # the first bucket begins at zero
        (0.95, {0.1: 10, 0.2: 10, inf: 100}, 0.2),  # in the last: the highest finite bound
        (1.0, {0.1: 5, 0.2: 10, inf: 10}, 0.2),
        (0.5, {1.0: 2, 2.0: 4, 4.0: 8, inf: 8}, 2.0),
        (0.75, {1.0: 2, 2.0: 4, 4.0: 8, inf: 8}, 3.0),
        (0.5, {-1.0: 4, 1.0: 4, inf: 4}, -1.0),  # a first bound below zero is told as it is
        (0.5, {0.1: 6, 0.2: 5, 0.4: 10, inf: 10}, 0.1 * 5 / 6),  # counts that fall are lifted
    ],
)
def test_a_quantile(share, buckets, expected):
    assert quantile(share, buckets) == pytest.approx(expected)


@pytest.mark.parametrize("buckets", [{}, {inf: 4}, {0.1: 0, inf: 0}, {0.1: 4, 0.2: 8}], ids=str)
def test_nothing_where_nothing_can_be_said(buckets):
    assert quantile(0.5, buckets) is None
