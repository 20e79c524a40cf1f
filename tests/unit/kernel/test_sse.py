"""Events are cut at blank lines and nothing is lost, whatever ends the lines and wherever the network cut the bytes."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.kernel.sse import Splitter, data_of

ENDS = (b"\n", b"\r", b"\r\n")
LINES = (
    b"",
    b"data: 1",
    b"data:2",
    b"data",
    b": ping",
    b"event: a",
    b"data:  x: y",
    b"datax: 3",
    b"id",
)


def by_the_standard(whole: bytes) -> list[bytes]:
    """Return the data of each event as the standard's algorithm finds it, on the whole stream at once; without those that have none."""
    lines = re.split(rb"\r\n|\n|\r", whole)
    found: list[bytes] = []
    data: list[bytes] = []
    for line in lines[:-1]:  # the last one has no end
        if not line:
            found.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return [each for each in found if each]


def fed(whole: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    splitter = Splitter()
    return [
        event for a, b in pairwise(edges) for event in splitter.feed(whole[a:b])
    ], splitter.rest()


@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)), max_size=20),
    st.lists(st.integers(0, 200), max_size=20),
)
def test_any_cut_and_any_line_ends_give_the_events_of_the_standard(
    lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    whole = b"".join(line + end for line, end in lines)
    events, rest = fed(whole, cuts)
    assert b"".join(events) + rest == whole
    assert [data for event in events if (data := data_of(event))] == by_the_standard(whole)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=8))
def test_any_bytes_pass_unchanged(whole: bytes, cuts: list[int]) -> None:
    events, rest = fed(whole, cuts)
    assert b"".join(events) + rest == whole


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\n\r", b"\r\n\r", b"\r\n\n"])
def test_an_event_is_given_out_as_soon_as_it_is_whole(end: bytes) -> None:
    splitter = Splitter()
    for byte in b"data: 1" + end[:-1]:
        assert splitter.feed(bytes([byte])) == []
    assert splitter.feed(end[-1:]) == [b"data: 1" + end]


def test_an_endless_event_is_let_through() -> None:
    splitter = Splitter(limit=10)
    assert splitter.feed(b"x" * 11) == [b"x" * 11]
    assert splitter.rest() == b""


def test_data_lines_are_joined() -> None:
    assert data_of(b"event: a\ndata: 1\ndata:2\n\n") == b"1\n2"


def test_a_byte_order_mark_is_passed_over() -> None:
    assert data_of(b"\xef\xbb\xbfdata: 1\n\n") == b"1"
