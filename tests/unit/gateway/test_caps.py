"""Limits on what a request may ask the engine to compile or to look at for every token."""

import pytest

from consilium.gateway.caps import (
    LONGEST_GRAMMAR,
    LONGEST_REGEX,
    LONGEST_STOP,
    MOST,
    MOST_CHOICES,
    check_caps,
)
from consilium.kernel.errors import ConsiliumError

USUAL = {
    "messages": [{"role": "user", "content": "x" * 100_000}],
    "stop": ["\n", "END"],
    "logit_bias": {"1": -100},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {"type": "object"}},
    },
    "structured_outputs": {"choice": ["yes", "no"]},
}
LONG = "a" * (LONGEST_GRAMMAR + 1)


def test_what_people_send_passes():
    check_caps(USUAL)


@pytest.mark.parametrize("strange", [None, 7, "text", [], {}, [1, None, {}]])
@pytest.mark.parametrize("field", [*MOST, "structured_outputs", "response_format", "text"])
def test_what_is_of_the_wrong_kind_is_the_engines_to_refuse(field, strange):
    check_caps({field: strange})


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("stop", {"stop": ["a"] * (MOST["stop"] + 1)}),
        ("stop", {"stop": "a" * (LONGEST_STOP + 1)}),
        ("bad_words", {"bad_words": ["a" * (LONGEST_STOP + 1)]}),
        ("logit_bias", {"logit_bias": dict.fromkeys(map(str, range(MOST["logit_bias"] + 1)), 1)}),
        ("messages", {"messages": [{}] * (MOST["messages"] + 1)}),
        ("tools", {"tools": [{}] * (MOST["tools"] + 1)}),
        ("tools.1", {"tools": [{}, {"parameters": LONG}]}),
        ("structured_outputs.regex", {"structured_outputs": {"regex": "a" * (LONGEST_REGEX + 1)}}),
        ("structured_outputs.grammar", {"structured_outputs": {"grammar": LONG}}),
        ("structured_outputs.json", {"structured_outputs": {"json": {"description": LONG}}}),
        (
            "structured_outputs.choice",
            {"structured_outputs": {"choice": ["a"] * (MOST_CHOICES + 1)}},
        ),
        ("structured_outputs.choice", {"structured_outputs": {"choice": [LONG]}}),
        (
            "response_format",
            {"response_format": {"json_schema": {"schema": {"description": LONG}}}},
        ),
        ("text.format", {"text": {"format": {"schema": {"description": LONG}}}}),
    ],
)
def test_what_is_too_large_is_refused_by_field_and_both_numbers(field, body):
    with pytest.raises(ConsiliumError) as caught:
        check_caps({**USUAL, **body})
    assert caught.value.code == "invalid_request"
    assert caught.value.fields["field"] == field
    assert "and the limit is" in caught.value.public()
