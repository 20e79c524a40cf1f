"""Admission: shapes that are refused here, tokens that are reserved, places that are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.gateway.body_checks import check_shape
from consilium.gateway.config import Gateway
from consilium.gateway.estimate import (
    LONGEST_ANSWER,
    MOST_ANSWERS,
    USUAL_ANSWER,
    bound_tokens,
    estimate_tokens,
)
from consilium.gateway.gate import Gate
from consilium.kernel.errors import ConsiliumError

LIMITS = Gateway(max_n=4)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": 5}, "model"),
        ({"model": ["a"]}, "model"),
        ({"n": 5}, "n"),
        ({"n": "5"}, "n"),
        ({"n": 5.0}, "n"),
        ({"n": "9" * 400}, "n"),
        ({"n": 10**400}, "n"),
        ({"consilium": "role/x"}, "consilium"),
        ({"consilium": {"role": 5}}, "consilium.role"),
        ({"consilium": {"profile": []}}, "consilium.profile"),
        ({"consilium": {"executor": {}}}, "consilium.executor"),
        ({"consilium": {"receipt": "yes"}}, "consilium.receipt"),
        ({"consilium": {"rolle": "x"}}, "consilium.rolle"),
    ],
)
def test_what_is_refused_names_the_field(body, field):
    with pytest.raises(ConsiliumError) as caught:
        check_shape(body, LIMITS, "chat")
    assert caught.value.code == "invalid_request"
    assert caught.value.fields["field"] == field


def test_what_comes_later_is_not_supported_yet():
    with pytest.raises(ConsiliumError) as caught:
        check_shape({"consilium": {"dual": True}}, LIMITS, "chat")
    assert caught.value.code == "not_supported"


def test_what_the_engine_validates_goes_on():
    for body in (
        {},
        {"messages": 5},
        {"temperature": "hot"},
        {"n": "many"},
        {"n": 4},
        {"consilium": None},
        {"consilium": {"role": None, "receipt": False}},
    ):
        check_shape(body, LIMITS, "chat")


@given(
    st.dictionaries(
        st.sampled_from(["model", "n", "consilium", "messages", "max_tokens"]), JSON, max_size=5
    ),
    st.integers(0, 10**7),
)
def test_any_body_is_let_through_or_refused(body, size):
    assert estimate_tokens(body, size) >= size // 4
    try:
        check_shape(body, LIMITS, "chat")
        said = "taken"
    except ConsiliumError as err:
        said = err.code
    assert said in {"taken", "invalid_request", "not_supported"}


def test_estimates():
    assert estimate_tokens({}, 400) == 100 + USUAL_ANSWER
    assert estimate_tokens({"max_tokens": 50}, 400) == 150
    assert estimate_tokens({"max_completion_tokens": 50, "max_tokens": 9}, 400) == 150
    assert estimate_tokens({"max_output_tokens": 50}, 400) == 150
    assert estimate_tokens({"max_tokens": 50, "n": 3}, 400) == 250
    assert estimate_tokens({"max_tokens": True, "n": "x"}, 400) == 100 + USUAL_ANSWER
    assert estimate_tokens({"max_tokens": "50", "n": 3.0}, 400) == 250
    assert estimate_tokens({"max_tokens": 50, "prompt": ["a", "b"]}, 400) == 200
    assert estimate_tokens({"max_tokens": 50, "prompt": [1, 2]}, 400) == 150


@pytest.mark.parametrize("length", [10**400, "9" * 400, 1e300, float("inf")])
def test_an_estimate_stays_a_number_that_redis_can_count(length):
    assert (
        estimate_tokens({"max_tokens": length, "n": length, "prompt": ["a"] * 9}, 8)
        == 2 + LONGEST_ANSWER * MOST_ANSWERS
    )


def test_prompts_of_a_completion_are_counted_with_n():
    check_shape({"prompt": ["a"] * 512, "n": 2}, LIMITS, "completions")
    check_shape({"prompt": [1] * 5000}, LIMITS, "completions")
    with pytest.raises(ConsiliumError) as caught:
        check_shape({"prompt": [[1]] * 513, "n": 2}, LIMITS, "completions")
    assert caught.value.fields["field"] == "prompt"


def test_the_gate_counts_each_executor():
    gate = Gate(2)
    gate.enter("core")
    gate.enter("core")
    gate.enter("hands")
    with pytest.raises(ConsiliumError) as caught:
        gate.enter("core")
    assert caught.value.code == "queue_full"
    assert caught.value.retry_after_s == 1.0
    assert "executor/core has 2 requests in work and 2 is the limit" in caught.value.public()
    assert (gate.running("core"), gate.running("hands")) == (2, 1)
    gate.leave("core", 1.0)
    gate.enter("core")


def test_retry_after_follows_the_time_of_a_turn():
    gate = Gate(1)
    gate.enter("core")
    gate.leave("core", 20.0)
    gate.enter("core")
    with pytest.raises(ConsiliumError) as caught:
        gate.enter("core")
    slow = caught.value.retry_after_s
    assert 10 < slow <= 60
    gate.set_limit("core", 8)
    for _ in range(7):
        gate.enter("core")
    with pytest.raises(ConsiliumError) as caught:
        gate.enter("core")
    assert 1 <= caught.value.retry_after_s < slow


def test_leaving_too_often_never_opens_more_places():
    gate = Gate(1)
    for _ in range(5):
        gate.leave("core", 0.1)
    gate.enter("core")
    with pytest.raises(ConsiliumError):
        gate.enter("core")


def test_the_bound_counts_each_byte_as_a_token_and_an_image_as_an_image():
    text = {"messages": [{"role": "user", "content": "ж" * 50}], "max_tokens": 20}
    assert 120 <= bound_tokens(text, 100) <= 220
    assert bound_tokens(text, 100, "frame") == bound_tokens(text, 100) + 5
    url = "data:image/png;base64," + "A" * 1_000_000
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}
    assert bound_tokens({"messages": [image], "max_tokens": 20}, len(url) + 100) < 17_000
    assert bound_tokens({"messages": "x", "tools": [1], "input": [3]}, 10) > USUAL_ANSWER
