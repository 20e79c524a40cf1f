"""Error objects, of ours and of others, are read as errors of the catalogue."""

import pytest

from consilium.kernel.catalogue import BY_CODE, ROWS
from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.openai_errors import Said, fields_of, said, said_in, seconds, shaped, told


def test_an_error_in_a_stream_keeps_its_hint_when_to_retry():
    read = told(to_openai(ConsiliumError("upstream_down", name="core", retry_after_s=2.5)), 500)
    assert read.retry_after_s == 2.5


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
        ({"error": "odd"}, 503, "upstream_down", "odd"),
        (None, 500, "internal", "HTTP 500"),
        ([], 418, "invalid_request", "HTTP 418"),
    ],
)
def test_an_error_of_others_is_read_by_its_status(body, status, code, text):
    read = told(body, status, retry_after_s=3.0)
    assert (read.code, read.public(), read.retry_after_s) == (code, text, 3.0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "a sentence"}', "a sentence"),
        (b"<html>Bad Gateway</html>\n", "HTTP 502: <html>Bad Gateway</html>"),
        (b'{"detail": "Not Found"}', 'HTTP 502: {"detail": "Not Found"}'),
        (b"\xff", "HTTP 502: \ufffd"),
        (b"x" * 9000, "HTTP 502: " + "x" * 200),
        (b"", "HTTP 502"),
    ],
)
def test_the_words_of_an_answer_are_found_whatever_it_is(raw, message):
    assert said_in(raw, 502).message == message


@pytest.mark.parametrize(
    "body", [None, [], {"error": None}, {"error": {"message": None, "code": True, "param": 7}}]
)
def test_what_says_nothing_says_nothing(body):
    assert said(body) == Said()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("7", 7.0), ("2.5", 2.5), (3, 3.0), ("-1", 0.0), (None, None), ("", None), ("soon", None), ("inf", None), ("nan", None), ("1e999", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)  # fmt: skip
def test_seconds(value, found):
    assert seconds(value) == found


@pytest.mark.parametrize(
    ("error", "status", "wanted"),
    [
        (
            {"message": "max_tokens must be at least 1", "type": "BadRequestError", "param": "max_tokens", "code": 400},
            400,
            {"type": "invalid_request_error", "param": "max_tokens", "code": "invalid_request"},
        ),
        ({"message": "no", "type": "NotFoundError", "param": None, "code": 404}, 404, {"type": "invalid_request_error", "param": None, "code": "model_unknown"}),
        ({"message": "no", "type": "Bad Request", "param": 7, "code": None}, 400, {"type": "invalid_request_error", "param": None, "code": "invalid_request"}),
        ({"message": "slow down", "type": "TooManyRequests", "code": 429}, 429, {"type": "rate_limit_error", "param": None, "code": "queue_full"}),
        ({"message": "no"}, 422, {"type": "invalid_request_error", "param": None, "code": "invalid_request"}),
    ],
)  # fmt: skip
def test_a_refusal_of_others_gets_the_shape_of_openai(error, status, wanted):
    assert shaped({"error": error}, status)["error"] == {"message": error["message"], **wanted}


@pytest.mark.parametrize(
    "error",
    [
        {"message": "pay", "type": "insufficient_quota", "param": None, "code": "insufficient_quota"},
        {"message": "no", "type": "invalid_request_error", "param": "stop", "code": None, "more": 1},
    ],
)  # fmt: skip
def test_a_refusal_that_has_the_shape_of_openai_stays_as_it_is(error):
    assert shaped({"error": error}, 429) == {"error": error}


def test_a_refusal_of_ours_in_the_words_of_the_engine_names_its_field_to_the_next_reader():
    error = {"message": "1 error: {'loc': 'top_p'}", "type": "invalid_request_error", "param": "top_p", "code": "invalid_request"}  # fmt: skip
    read = told({"error": error}, 400)
    assert read.public() == error["message"]
    assert (read.fields["field"], read.fields["reason"]) == ("top_p", error["message"])
