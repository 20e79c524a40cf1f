"""The gate's lanes: a quarter is kept for people, batch and night are refused first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.engine.ports import LANES
from consilium.gateway.gate import Gate, allowed
from consilium.kernel.errors import ConsiliumError


def fill(gate: Gate, lane: str) -> int:
    before = gate.running("core")

    def take_all() -> None:
        while True:
            gate.enter("core", lane)

    with pytest.raises(ConsiliumError) as refused:
        take_all()
    assert refused.value.code == "queue_full"
    assert refused.value.retry_after_s >= 1
    return gate.running("core") - before


def test_a_quarter_is_kept_for_people():
    gate = Gate(16)
    assert fill(gate, "night") == 8
    assert fill(gate, "batch") == 2
    assert fill(gate, "normal") == 2
    assert fill(gate, "interactive") == 4


def test_people_who_fill_it_leave_nothing_to_the_others():
    gate = Gate(16)
    assert fill(gate, "interactive") == 16
    assert [fill(gate, lane) for lane in LANES] == [0, 0, 0, 0]


@given(limit=st.integers(1, 10_000))
def test_each_lane_has_a_place_and_none_more_than_the_one_before(limit):
    places = [allowed(limit, lane) for lane in LANES]
    assert places[0] == limit
    assert places[-1] >= 1
    assert places == sorted(places, reverse=True)
    if limit >= 4:
        assert places[1] <= limit - limit // 4


@pytest.mark.parametrize("lane", LANES)
def test_a_place_that_was_given_back_is_free_again(lane):
    gate = Gate(4)
    taken = fill(gate, lane)
    gate.leave("core", 0.1)
    assert fill(gate, lane) == 1
    assert gate.running("core") == taken
