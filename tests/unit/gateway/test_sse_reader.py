"""One parser for every reader of our streams."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.gateway.sse_reader import ChatPiece, Reader, chat_piece
from consilium.kernel.errors import ConsiliumError, to_openai


def event(value):
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=3), max_size=6),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_events_are_whole_wherever_the_bytes_are_cut(values, cuts):
    raw = b"".join(event(value) for value in values) + b"data: [DONE]\n\n"
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    reader = Reader()
    found = [
        item for begin, end in itertools.pairwise(edges) for item in reader.feed(raw[begin:end])
    ]
    assert found == values
    assert reader.done


def test_comments_names_and_carriage_returns_are_understood():
    reader = Reader()
    raw = b': keep-alive\r\n\r\nevent: response.created\r\ndata: {"a":1}\r\n\r\ndata: nonsense\n\ndata: [1]\n\n'
    assert list(reader.feed(raw)) == [{"a": 1}]
    assert not reader.done


def test_a_last_event_without_its_blank_line_is_read_at_the_end():
    reader = Reader()
    assert list(reader.feed(b'data: {"a":1}\n\ndata: {"b":2}\n')) == [{"a": 1}]
    assert list(reader.end()) == [{"b": 2}]
    assert list(reader.end()) == []


def test_a_chat_piece_has_text_thinking_end_and_receipt():
    assert chat_piece({"choices": [{"delta": {"content": "a", "reasoning": "b"}}]}) == ChatPiece(
        "a", "b"
    )
    assert chat_piece(
        {"choices": [{"delta": {"reasoning_content": "b"}, "finish_reason": "stop"}]}
    ) == ChatPiece("", "b", "stop")
    assert chat_piece({"choices": [], "consilium": {"receipt": {"id": "r"}}}) == ChatPiece(
        receipt={"id": "r"}
    )
    with pytest.raises(ConsiliumError) as raised:
        chat_piece(to_openai(ConsiliumError("upstream_down", name="core", retry_after_s=5.0)))
    assert raised.value.code == "upstream_down"
    assert raised.value.public().startswith("core is not answering. Try again in 5.0 s")
