"""W3C Trace Context: what is valid, and what becomes of what is not. Most rows are those of the W3C's own test suite."""

import io
import json
import re

import pytest

from consilium.kernel import logs, trace_context
from consilium.kernel.trace_context import of

ID, SPAN = "12345678901234567890123456789012", "1234567890123456"
PARENT = f"00-{ID}-{SPAN}-01"


def kept(*pairs):
    """Return the headers that are handed on if the trace of these is kept, else None."""
    told = of(pairs).headers()
    return told if ID in told["traceparent"] else None


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (PARENT, PARENT),
        (f"00-{ID}-{SPAN}-00", f"00-{ID}-{SPAN}-00"),
        (f"00-{ID}-{SPAN}-ff", f"00-{ID}-{SPAN}-ff"),
        (f" {PARENT}\t", PARENT),
        (f"cc-{ID}-{SPAN}-01", PARENT),
        (f"cc-{ID}-{SPAN}-03-what-the-future-will-be-like", PARENT),
        (f"cc-{ID}-{SPAN}-fe", f"00-{ID}-{SPAN}-00"),
    ],
)
def test_a_valid_parent_is_handed_on(given, handed_on):
    assert kept(("traceparent", given)) == {"traceparent": handed_on}


@pytest.mark.parametrize(
    "given",
    [
        "",
        "foo",
        f"ff-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01-more",
        f"00-{ID}-{SPAN}-01-",
        f"cc-{ID}-{SPAN}-01.more",
        f".0-{ID}-{SPAN}-01",
        f"0-{ID}-{SPAN}-01",
        f"000-{ID}-{SPAN}-01",
        f"00-{ID}x-{SPAN}-01",
        f"00-{ID[:-1]}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID}-{SPAN[:-1]}.-01",
        f"00-{ID}-{SPAN}-.0",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}-001",
        f"00-{'A' * 32}-{SPAN}-01",
        f"00-{ID}-{SPAN}",
        f"00-{ID[:-1]}\u0661-{SPAN}-01",
    ],
)
def test_another_parent_begins_a_new_trace_without_the_state(given):
    told = of((("traceparent", given), ("tracestate", "foo=1"))).headers()
    assert set(told) == {"traceparent"}
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", told["traceparent"])
    assert ID not in told["traceparent"]


def test_two_parents_are_none_and_the_case_of_a_name_is_nothing():
    assert kept(("traceparent", PARENT), ("traceparent", PARENT)) is None
    assert kept((b"TraceParent", PARENT.encode()), ("TRACESTATE", "a=1")) == {
        "traceparent": PARENT,
        "tracestate": "a=1",
    }


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        (["foo=1,bar=2"], "foo=1,bar=2"),
        (["foo=1", "bar=2"], "foo=1,bar=2"),
        (["foo=1 \t , \t bar=2, "], "foo=1,bar=2"),
        (["", "foo=1", ""], "foo=1"),
        (["0fw529@dt=a b!c"], "0fw529@dt=a b!c"),
        (["z" * 256 + "=1"], "z" * 256 + "=1"),
        (["t" * 241 + "@" + "v" * 14 + "=1"], "t" * 241 + "@" + "v" * 14 + "=1"),
        (["foo=1,foo=1"], ""),
        (["foo"], ""),
        (["foo=1=2"], ""),
        (["foo=\u00e4"], ""),
        (["foo@=1"], ""),
        (["@foo=1"], ""),
        (["foo@@bar=1"], ""),
        (["foo@bar@baz=1"], ""),
        (["FOO=1"], ""),
        (["foo.bar=1"], ""),
        (["z" * 257 + "=1"], ""),
        (["t" * 242 + "@v=1"], ""),
        (["t@" + "v" * 15 + "=1"], ""),
        ([",".join(f"bar{number:02}=1" for number in range(33))], ""),
    ],
)
def test_a_state_is_handed_on_if_it_is_valid(given, handed_on):
    told = kept(("traceparent", PARENT), *(("tracestate", one) for one in given))
    assert told == {"traceparent": PARENT} | ({"tracestate": handed_on} if handed_on else {})


def test_a_state_that_is_too_long_loses_its_long_members_first_and_then_its_last():
    members = [f"a{number}={'x' * 100}" for number in range(6)]
    long = f"long={'y' * 200}"
    told = kept(("traceparent", PARENT), ("tracestate", ",".join([long, *members])))
    assert told["tracestate"] == ",".join(members[:4])


def test_log_lines_have_the_trace_beside_the_request():
    lines = io.StringIO()
    logs.configure("test", form="json", stream=lines)
    try:
        with logs.request("r-1"), trace_context.entered(of((("traceparent", PARENT),))):
            logs.get().info("something")
        logs.get().info("nothing")
    finally:
        logs.structlog.reset_defaults()
    inside, outside = map(json.loads, lines.getvalue().splitlines())
    assert (inside["request_id"], inside["trace_id"]) == ("r-1", ID)
    assert "trace_id" not in outside
    assert trace_context.headers() == {}
