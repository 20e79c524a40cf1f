"""One parser for every reader of our streams."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.gateway.sse_reader import ChatPiece, Reader, chat_piece, fields_of, told
from consilium.kernel.catalogue import BY_CODE, ROWS
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


def test_an_error_in_a_stream_keeps_its_hint_when_to_retry():
    read = told(to_openai(ConsiliumError("upstream_down", name="core", retry_after_s=2.5)), 500)
    assert read.retry_after_s == 2.5


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


FIELDS = {"field": "temperature", "reason": "it is 3", "tokens": 9000, "limit": 8192, "size": 9, "name": "роль", "nearest": "role/x", "kept": "24 h", "method": "PUT",
          "allowed": "GET", "running": 4, "unit": "tokens", "seconds": 5, "request_id": "r1", "key": "k", "asked": 2, "seen": 1, "port": 80, "owner": "x", "state": "/s",
          "wanted": "3.11", "path": "/p", "free": "1 GB", "needed": "2 GB", "retry_after": 2}  # fmt: skip


@pytest.mark.parametrize("code", [row.code for row in ROWS])
def test_an_error_of_ours_is_read_back_with_its_fields(code):
    error = ConsiliumError(code, "private", **FIELDS)
    read = told(to_openai(error), error.row.http)
    assert read.code == code
    assert read.public() == error.public()
    found = fields_of(BY_CODE[code], error.public())
    assert ConsiliumError(code, **found).public() == error.public()


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        (
            {
                "error": {
                    "message": "top_p must be in (0, 1]",
                    "type": "BadRequestError",
                    "param": "top_p",
                    "code": 400,
                }
            },
            400,
            "invalid_request",
            "top_p must be in (0, 1]",
        ),
        ({"error": {"message": "no", "code": 404}}, 404, "model_unknown", "no"),
        ({"error": "odd"}, 503, "upstream_down", "HTTP 503"),
        (None, 500, "internal", "HTTP 500"),
        ([], 418, "invalid_request", "HTTP 418"),
    ],
)
def test_an_error_of_others_is_read_by_its_status(body, status, code, text):
    read = told(body, status, retry_after_s=3.0)
    assert (read.code, read.public(), read.retry_after_s) == (code, text, 3.0)
