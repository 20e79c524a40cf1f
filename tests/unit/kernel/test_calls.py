import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError


def told(err):
    return calls.from_status(
        calls.status_of(err), err.public(), calls.trailing(err), name="gateway"
    )


def test_only_fields_of_the_public_sentence_travel():
    err = ConsiliumError("model_unknown", name="a", nearest="b", path="/secret", param="model")
    assert told(err).fields == {"name": "a", "nearest": "b", "param": "model"}


@given(st.text(), st.text(max_size=2000))
def test_metadata_is_ascii_and_short_whatever_the_fields_hold(name, nearest):
    pairs = calls.trailing(ConsiliumError("model_unknown", name=name, nearest=nearest))
    assert all(value.isascii() and value.isprintable() for _, value in pairs)
    assert sum(len(key) + len(value) for key, value in pairs) < 16 * 1024


@pytest.mark.parametrize(
    ("status", "details", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect", "upstream_down"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", "deadline"),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 8)",
            "body_too_large",
        ),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded", "queue_full"),
        (grpc.StatusCode.UNKNOWN, "?", "internal"),
        (None, "", "internal"),
    ],
)
def test_a_bare_status_has_a_meaning(status, details, code):
    assert calls.from_status(status, details, (), name="core").code == code


def test_a_code_or_fields_of_a_newer_server_do_no_harm():
    newer = (("x-consilium-error", "moon_full"), ("retry-after", "soon"))
    assert (
        calls.from_status(grpc.StatusCode.UNAVAILABLE, "", newer, name="core").code
        == "upstream_down"
    )
    odd = (("x-consilium-error", "deadline"), ("x-consilium-error-fields", '{"name": {"a": 1}'))
    assert (
        calls.from_status(grpc.StatusCode.OK, "", odd, name="core").public()
        == "The deadline has passed."
    )


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2:3_4", "abc-1.2:3_4"), ("", None), ("a\nb", None), ("x" * 65, None), (None, None)],
)
def test_a_request_id_is_fit_for_logs_or_replaced(sent, kept):
    assert calls.request_id_from(sent) == kept


def test_outside_of_a_call_there_is_none():
    assert calls.current_deadline() is None
    with pytest.raises(LookupError):
        calls.current()
