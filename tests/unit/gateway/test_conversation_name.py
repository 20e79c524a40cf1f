"""Which conversation a turn belongs to."""

import pytest

from consilium.gateway.conversation_name import named

HELLO = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("headers", "body", "name"),
    [
        ({"x-consilium-conversation": "a"}, {"metadata": {"conversation_id": "b"}}, "a"),
        ({"x-openwebui-chat-id": "c"}, {"metadata": {"conversation_id": "b"}}, "b"),
        ({"x-openwebui-chat-id": "c"}, {}, "c"),
        ({"x-consilium-conversation": "with space"}, {}, ""),
        ({"x-consilium-conversation": "x" * 129}, {}, ""),
        ({}, {"metadata": {"conversation_id": 7}}, ""),
        ({}, {"metadata": "no object", "prompt": "hi"}, ""),
        ({}, {"messages": ["no object"]}, ""),
        ({}, {"messages": [{"role": "system", "content": "s"}]}, ""),
    ],
)
def test_who_says_it_first_is_believed(headers, body, name):
    assert named(headers, body, "k") == name


def test_every_turn_of_one_conversation_has_one_name():
    first = named({}, {"messages": HELLO}, "k")
    later = [*HELLO, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "why"}]
    assert first.startswith("chain:")
    assert named({}, {"messages": later}, "k") == first


def test_another_key_or_another_beginning_is_another_conversation():
    first = named({}, {"messages": HELLO}, "k")
    assert named({}, {"messages": HELLO}, "other") != first
    assert named({}, {"messages": HELLO[1:]}, "k") != first


def test_a_text_as_input_is_a_message():
    said = named({}, {"input": "hello"}, "k")
    assert said == named({}, {"input": [{"role": "user", "content": "hello"}]}, "k")
