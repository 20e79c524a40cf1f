"""The planner is ahead of every other published rule on the same boot logs."""

import pytest

from tests.bench.planner_rules import OURS, RULES, compare


@pytest.mark.parametrize("held_apart_only", [False, True])
def test_ours_is_first(held_apart_only):
    scores = compare(held_apart_only=held_apart_only)
    ours = next(score for score in scores if score.name == OURS)
    others = [score for score in scores if score.name != OURS]
    assert len(others) == len(RULES)
    assert all(ours.median < other.median for other in others)
    assert all(ours.within > other.within for other in others)
    assert ours.wrong_fit == 0
