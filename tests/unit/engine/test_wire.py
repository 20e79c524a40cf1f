"""Frames: what goes in comes out, however the items were cut together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.engine import wire
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.ports import ROUTES, Call, Head, Tail, Timings, Usage
from consilium.kernel.errors import ConsiliumError

HEAD = Head(
    200, True, wire.SSE, replica="core#1", executor="core", revision="abc", template="plain"
)
TAIL = Tail(Usage(3, 4, 1), "stop", Timings(0.1, 2.0, 2.1, 9.0))
bodies = st.binary(max_size=60).filter(lambda raw: b"\x00" not in raw)


@given(st.lists(bodies, max_size=6), bodies)
def test_a_stream_is_read_back_whole(pieces: list[bytes], last: bytes) -> None:
    items = [
        wire.head_frame(HEAD, pieces[0] if pieces else b""),
        *pieces[1:],
        wire.tail_frame(TAIL, last),
    ]
    reader = wire.Reader()
    read = [reader.take(item) for item in items]
    assert read[0].head == HEAD
    assert [item.head for item in read[1:]] == [None] * (len(read) - 1)
    assert b"".join(item.body for item in read) == b"".join(pieces) + last
    assert read[-1].tail == TAIL
    assert all(item.tail is None for item in read[:-1])


@given(bodies)
def test_a_document_is_one_item(body: bytes) -> None:
    item = wire.Reader().take(wire.document(HEAD, body, TAIL))
    assert (item.head, item.body, item.tail) == (HEAD, body, TAIL)


def test_a_first_item_without_a_head_is_refused() -> None:
    with pytest.raises(ConsiliumError, match="internal"):
        wire.Reader().take(b"data: {}\n\n")


def test_names_in_any_script_cross() -> None:
    head = Head(503, False, wire.JSON, retry_after=1.5, executor="ядро")
    assert wire.split_head(wire.head_frame(head)) == (head, b"")


def test_a_failure_is_an_openai_error_object() -> None:
    item = wire.Reader().take(
        wire.failure(
            Head(400, False, wire.JSON), ConsiliumError("prompt_too_long", tokens=9000, limit=8192)
        )
    )
    assert b'"code":"prompt_too_long"' in item.body
    assert b"9000" in item.body
    assert b"8192" in item.body
    assert item.tail == Tail()


def test_a_call_survives_the_dict() -> None:
    call = Call("id", "chat", {"messages": []}, priority=3, deadline=1.0, prefix_key="k")
    assert Call.of(call.as_dict()) == call


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stream", [False, True])
async def test_echo_answers_each_route_in_frames(route: str, stream: bool) -> None:
    engine = EchoEngine()
    await engine.start()
    call = Call(
        "r1",
        route,
        {
            "messages": [{"role": "user", "content": "one two"}],
            "prompt": "one two",
            "input": "one two",
            "stream": stream,
        },
    )
    if route == "embeddings":
        with pytest.raises(ConsiliumError, match="not_supported"):
            await anext(engine.stream(call))
        return
    reader = wire.Reader()
    items = [reader.take(item) async for item in engine.stream(call)]
    assert items[0].head is not None
    assert items[0].head.status == 200
    assert items[-1].tail is not None
    body = b"".join(item.body for item in items)
    if route in {"chat", "completions", "responses"}:
        assert b"one" in body
        assert b"two" in body
        assert items[-1].tail.usage == Usage(2, 2, 0)
    assert body.endswith(wire.DONE) == (items[0].head.stream and route != "responses")
    assert engine.aborted == []


async def test_closing_an_echo_stream_aborts_it() -> None:
    engine = EchoEngine()
    await engine.start()
    stream = engine.stream(
        Call(
            "r1", "chat", {"messages": [{"role": "user", "content": "a b !wait c"}], "stream": True}
        )
    )
    await anext(stream)
    assert engine.running == {"r1"}
    await stream.aclose()
    assert engine.running == set()
    assert engine.aborted == ["r1"]


async def test_an_echo_stream_can_break_after_its_head() -> None:
    engine = EchoEngine()
    await engine.start()
    call = Call(
        "r1", "chat", {"messages": [{"role": "user", "content": "a !break c"}], "stream": True}
    )
    body = b"".join([item async for item in engine.stream(call)])
    assert b'"code":"upstream_down"' in body
    assert wire.DONE in body
