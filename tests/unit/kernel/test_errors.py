import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel import errors
from consilium.kernel.catalogue import ROWS
from consilium.kernel.errors import ConsiliumError


def test_the_sentence_is_filled_in_and_the_detail_stays_private():
    err = ConsiliumError(
        "prompt_too_long", "req=abc key=csl_1", tokens=9000, limit=8192, param="messages"
    )
    assert "9000" in err.public()
    assert "8192" in err.public()
    assert "csl_1" not in err.public()
    assert errors.to_openai(err) == {
        "error": {
            "message": err.public(),
            "type": "invalid_request_error",
            "param": "messages",
            "code": "prompt_too_long",
        }
    }
    assert errors.http_status(err) == 400


def test_a_missing_field_gives_the_plain_sentence():
    assert (
        ConsiliumError("prompt_too_long", tokens=9000).public()
        == "The prompt is longer than this model's context."
    )


def test_a_typo_in_a_code_does_not_travel():
    with pytest.raises(KeyError):
        ConsiliumError("promt_too_long")


def test_seconds_until_a_retry_stand_in_the_sentence():
    assert "1.5 s" in ConsiliumError("engine_starting", name="core", retry_after_s=1.52).public()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.code)
def test_every_error_crosses_process_borders_whole(row):
    err = ConsiliumError(row.code, "private", retry_after_s=2.0, name="core", reason="so")
    back = pickle.loads(pickle.dumps(err))
    assert (back.code, back.detail, back.retry_after_s, back.fields, str(back)) == (
        err.code,
        err.detail,
        err.retry_after_s,
        err.fields,
        str(err),
    )


@given(st.text(), st.text())
def test_no_value_breaks_the_sentence(name, nearest):
    assert repr(name) in ConsiliumError("model_unknown", name=name, nearest=nearest).public()


def test_what_nobody_expected_tells_the_request_id_only():
    err = errors.unknown("req-1", ValueError("password=hunter2"))
    assert err.public() == "Something went wrong on our side. Request id: req-1."
    assert "hunter2" in err.detail
