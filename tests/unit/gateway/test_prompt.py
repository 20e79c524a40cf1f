"""The words of a body, whatever its shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.gateway.prompt import framed, prefix_key
from consilium.gateway.roles import Frame
from consilium.gateway.turn_words import text
from consilium.kernel.errors import ConsiliumError

FRAME = Frame("stoic", "Be calm.")
JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "text", "type", "user"]), inner, max_size=3
        )
    ),
    max_leaves=10,
)
BODIES = st.dictionaries(
    st.sampled_from(["messages", "prompt", "input", "instructions"]), JSON, max_size=4
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            {
                "messages": [
                    {"role": "user", "content": "one"},
                    {"role": "assistant", "content": "no"},
                ]
            },
            "one",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
                    }
                ]
            },
            "a b",
        ),
        ({"prompt": "two"}, "two"),
        ({"input": "three"}, "three"),
        ({"input": [{"role": "user", "content": "four"}]}, "four"),
        ({"prompt": [1, 2]}, ""),
        ({}, ""),
    ],
)
def test_the_last_words_of_the_caller(body, words):
    assert text(body) == words


def test_frames_go_where_the_route_has_its_words():
    user = {"role": "user", "content": "x"}
    assert framed(FRAME, {"messages": [user]}, "chat")["messages"] == [
        {"role": "system", "content": "Be calm."},
        user,
    ]
    assert framed(FRAME, {"messages": [user]}, "tokenize")["messages"][0]["role"] == "system"
    assert framed(FRAME, {"prompt": "x"}, "completions")["prompt"] == "Be calm.\n\nx"
    assert framed(FRAME, {"input": "x"}, "responses")["instructions"] == "Be calm."
    assert framed(FRAME, {"input": "x"}, "embeddings") == {"input": "x"}


@pytest.mark.parametrize("messages", [None, 5, "x", [5], [{"role": "user", "content": "x"}, "y"]])
def test_messages_of_another_shape_go_to_the_engine_as_they_are(messages):
    assert framed(FRAME, {"messages": messages}, "chat") == {"messages": messages}


def test_a_role_and_its_beginning_make_the_prefix_key():
    body = framed(FRAME, {"messages": [{"role": "user", "content": "x"}]}, "chat")
    assert prefix_key("stoic", body) == "stoic:Be calm."
    assert prefix_key(None, {"prompt": "p" * 1000}) == ":" + "p" * 512
    assert prefix_key(None, {}) == ""


@given(BODIES, st.sampled_from(["chat", "completions", "responses", "tokenize", "embeddings"]))
def test_any_body_is_read_without_an_exception(body, route):
    assert isinstance(text(body), str)
    assert isinstance(prefix_key("stoic", body), str)
    try:
        said = "framed" if isinstance(framed(FRAME, body, route), dict) else "lost"
    except ConsiliumError as err:
        said = err.code
    assert said in {"framed", "invalid_request"}
