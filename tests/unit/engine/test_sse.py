"""Events are cut at blank lines and nothing is lost, wherever the network cut the bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from consilium.engine.backends.sse import Splitter, data_of

EVENTS = [
    b"data: 1\n\n",
    b"event: a\ndata: {}\n\n",
    b": ping\n\n",
    b"data: x\r\n\r\n",
    b"data: [DONE]\n\n",
]


@given(st.lists(st.sampled_from(EVENTS), max_size=8), st.lists(st.integers(0, 120), max_size=10))
def test_any_cut_gives_the_same_bytes(events: list[bytes], cuts: list[int]) -> None:
    whole = b"".join(events)
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    splitter = Splitter()
    read = [event for a, b in pairwise(edges) for event in splitter.feed(whole[a:b])]
    assert b"".join(read) + splitter.rest() == whole
    assert read == events


def test_an_endless_event_is_let_through() -> None:
    splitter = Splitter(limit=10)
    assert splitter.feed(b"x" * 11) == [b"x" * 11]
    assert splitter.rest() == b""


def test_data_lines_are_joined() -> None:
    assert data_of(b"event: a\ndata: 1\ndata:2\n\n") == b"1\n2"
