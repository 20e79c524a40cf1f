"""Keys: spelled one way, hashed with the pepper, good or not at a time."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.gateway import key_requests
from consilium.gateway.keys import (
    ANYONE,
    DEFAULT_SCOPES,
    bearer,
    digest,
    mint,
    parse,
    principal,
    verify,
)
from consilium.kernel.errors import ConsiliumError

PEPPER = b"0" * 64


def made(**more):
    return mint(PEPPER, name="laptop", now=1000.0, **more)


def test_a_minted_key_opens_its_record_and_no_other():
    text, record = made()
    other, _ = made()
    given_key = parse(text)
    assert given_key.id == record.id
    assert verify(record, digest(PEPPER, given_key.secret))
    assert not verify(record, digest(PEPPER, parse(other).secret))
    assert not verify(record, digest(b"other pepper", given_key.secret))


def test_the_secret_is_not_in_the_record():
    text, record = made()
    assert parse(text).secret not in repr(record)
    assert len(record.digest) == 64


def test_keys_differ():
    assert len({made()[0] for _ in range(200)}) == 200


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer x",
        "Basic abc",
        "csl_0123456789ab_" + "0" * 48,
        "Bearer csl_0123456789ab_" + "0" * 47,
        "Bearer a b",
    ],
)
def test_other_headers_hold_no_key(header):
    assert bearer(header) is None


@pytest.mark.parametrize("word", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(word):
    text, record = made()
    assert bearer(f"{word}  {text}").id == record.id


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_is_not(text):
    assert parse(text) is None or text.startswith("csl_")


def test_refusals():
    _, record = made(lifetime_s=60)
    assert record.expires == 1060.0
    assert record.refusal(1059.9) is None
    assert "expired" in record.refusal(1060.0)
    assert "revoked" in replace(record, revoked=5.0).refusal(1000.0)
    assert made()[1].refusal(1e12) is None


def test_scopes():
    holder = principal(made()[1])
    assert all(holder.may(scope) for scope in DEFAULT_SCOPES)
    assert not holder.may("admin")
    assert principal(made(scopes=frozenset({"admin"}))[1]).may("generate")
    assert ANYONE.may("generate")
    assert not ANYONE.may("admin")
    writer, reader = (principal(made(scopes=frozenset({word}))[1]) for word in ("generate", "read"))
    assert writer.may("read")
    assert not reader.may("generate")


def test_a_beginning_names_one_key_or_the_candidates_are_told():
    ids = ["4755ef157abc", "4755ef999abc", "aa00bb11cc22"]
    assert key_requests.chosen("aa00", ids) == "aa00bb11cc22"
    assert key_requests.chosen("4755ef157\u2026", ids) == "4755ef157abc"
    with pytest.raises(ConsiliumError) as several:
        key_requests.chosen("4755", ids)
    assert "4755ef157abc, 4755ef999abc" in several.value.public()
    for wrong in ("beef", "xyzw", "4755ef157abc0", ""):
        with pytest.raises(ConsiliumError) as unknown:
            key_requests.chosen(wrong, ids)
        assert unknown.value.code == "key_unknown"
