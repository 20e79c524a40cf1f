"""The planner is ahead of the other published rules on the same boot logs."""

import pytest
from tests.bench.planner_rules import FITTED, OURS, RULES, compare


@pytest.mark.parametrize("held_apart_only", [False, True])
def test_ours_is_ahead_of_each_published_rule(held_apart_only):
    scores = {score.name: score for score in compare(held_apart_only=held_apart_only)}
    ours = scores.pop(OURS)
    assert scores.keys() == RULES.keys()
    assert all(ours.median < other.median for name, other in scores.items() if name not in FITTED)
    assert all(ours.within >= other.within for other in scores.values())
    assert ours.wrong_fit == 0


def test_a_constant_that_was_fitted_to_logs_like_these_fails_where_the_batch_is_large():
    scores = {score.name: score for score in compare()}
    for name in FITTED:
        assert scores[OURS].within > scores[name].within
        assert scores[OURS].worst < scores[name].worst
