"""People before batches in a full engine: in its queue, and where its memory is short."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from consilium.engine import wire
from consilium.engine.ports import Lane
from tests.alike import alike

from .conftest import BLOCKS, CONTEXT, PLACES, Asker, Said, counted

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

LONG = 400


def body(text: str, tokens: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
    }


async def told(dense: Asker, ends: list[str], name: str, lane: Lane, tokens: int) -> Said:
    """Ask in a lane, and note when the answer is whole."""
    said = await dense.ask("chat", lane=lane, **body(name, tokens))
    ends.append(name)
    return said


def pushed_out() -> float:
    """Return how often an answer was pushed out so far."""
    return counted("vllm:num_preemptions_total")


async def queued(dense: Asker, count: int) -> None:
    async with asyncio.timeout(120):
        while dense.engine.load()["unfinished"] < count:  # noqa: ASYNC110  # the engine tells nobody when it takes a request
            await asyncio.sleep(0.01)


@asynccontextmanager
async def held(dense: Asker) -> AsyncIterator[None]:
    """Meanwhile the engine makes no step: what was begun is not over before the others have come, however slow this machine is."""
    await dense.engine._engine.pause_generation(mode="keep")
    try:
        yield
    finally:
        await dense.engine._engine.resume_generation()


@asynccontextmanager
async def full(dense: Asker, lane: Lane) -> AsyncIterator[list[Any]]:
    """Every place taken by a long answer; closed on leaving."""
    streams = [
        dense.engine.stream(dense.call("chat", lane, stream=True, **body(f"long {i}", LONG)))
        for i in range(PLACES)
    ]
    try:
        await asyncio.gather(*(anext(stream) for stream in streams))
        yield streams
    finally:
        for stream in streams:
            await stream.aclose()


async def test_the_next_place_is_for_people_whoever_waits_longer(dense: Asker) -> None:
    """vLLM takes no place from an answer that runs; the gateway's gate keeps a quarter of them free."""
    lanes: list[Lane] = ["night", "batch", "normal", "interactive"]
    ends: list[str] = []
    async with full(dense, "batch") as streams:
        waiting = []
        async with held(dense):
            for number, lane in enumerate(lanes):
                waiting.append(asyncio.create_task(told(dense, ends, lane, lane, 1)))
                await queued(dense, PLACES + number + 1)
            await streams[0].aclose()
        await asyncio.wait_for(asyncio.gather(*waiting), 120)
    assert ends == lanes[::-1]


async def test_where_memory_is_short_batches_are_pushed_out_and_say_the_same_afterwards(
    dense: Asker,
) -> None:
    names = [f"A long tale, number {i}" for i in range(PLACES - 1)]
    assert PLACES * CONTEXT > BLOCKS * 128
    calm = [await dense.ask("chat", **body(name, LONG)) for name in names[-2:]]
    before = pushed_out()
    ends: list[str] = []
    async with held(dense):
        batches = [asyncio.create_task(told(dense, ends, name, "batch", LONG)) for name in names]
        await queued(dense, len(names))
        asking = asyncio.create_task(told(dense, ends, "a person", "interactive", LONG))
        await queued(dense, len(names) + 1)
    person = await asking
    said = await asyncio.gather(*batches)
    assert ends.index("a person") < len(ends) - 2, "it came last, and others were pushed out for it"
    assert person.tail.usage.completion_tokens == LONG
    assert [one.tail.usage.completion_tokens for one in said] == [LONG] * len(names)
    for was, now in zip(calm, said[-2:], strict=True):
        assert alike(was.text, now.text)
    assert pushed_out() > before


async def test_the_order_is_the_lanes_and_not_what_the_caller_writes(dense: Asker) -> None:
    ends: list[str] = []
    async with full(dense, "batch") as streams:
        async with held(dense):
            pushy = asyncio.create_task(
                dense.ask("chat", lane="night", **body("pushy", 1), priority=-100)
            )
            pushy.add_done_callback(lambda _: ends.append("pushy"))
            await queued(dense, PLACES + 1)
            person = asyncio.create_task(told(dense, ends, "a person", "interactive", 1))
            await queued(dense, PLACES + 2)
            await streams[0].aclose()
        await asyncio.wait_for(asyncio.gather(pushy, person), 120)
    assert ends == ["a person", "pushy"]


async def test_a_stream_of_a_batch_that_was_pushed_out_is_whole(dense: Asker) -> None:
    """What the caller of a pushed out answer sees is a pause."""

    async def whole(number: int) -> bytes:
        call = dense.call("chat", "night", stream=True, **body(f"Night tale {number}", LONG))
        return b"".join([frame async for frame in dense.engine.stream(call)])

    nights = [asyncio.create_task(whole(i)) for i in range(PLACES)]
    await queued(dense, PLACES)
    for raw in await asyncio.gather(*nights):
        assert raw.count(b'"finish_reason":"length"') >= 1
        assert wire.DONE in raw
