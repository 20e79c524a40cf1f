"""The head of a stream says that the engine has taken the call: it comes before the first token, and what is refused never gets it."""

import asyncio

import pytest

from consilium.engine import wire

from .conftest import Asker

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]

HELLO = [{"role": "user", "content": "Hello"}]
STREAMS = {
    "chat": {"messages": HELLO, "max_tokens": 4, "temperature": 0},
    "completions": {"prompt": ["one", "two"], "max_tokens": 4, "temperature": 0},
    "responses": {"input": "Hello", "max_output_tokens": 4, "temperature": 0},
}
BAD = {"structured_outputs": {"regex": "("}}


@pytest.mark.parametrize("route", STREAMS)
async def test_the_head_comes_while_the_engine_makes_no_token(dense: Asker, route: str) -> None:
    engine = dense.engine._engine
    await engine.pause_generation(mode="keep")
    try:
        frames = dense.engine.stream(dense.call(route, **STREAMS[route], stream=True))
        head, body = wire.split_head(await asyncio.wait_for(anext(frames), 120))
        coming = asyncio.ensure_future(anext(frames))
        await asyncio.wait({coming}, timeout=0.3)
        assert not coming.done()
    finally:
        await engine.resume_generation()
    assert (head.status, head.stream) == (200, True)
    assert b"delta" not in body
    assert (b"response.created" in body) == (route == "responses")
    rest = await coming + b"".join([frame async for frame in frames])
    assert b'"length"' in rest or b"response.incomplete" in rest or b"response.completed" in rest


@pytest.mark.parametrize("route", STREAMS)
async def test_what_the_engine_refuses_has_its_own_status(dense: Asker, route: str) -> None:
    said = await dense.ask(route, **STREAMS[route], **BAD, stream=True)
    assert (said.head.status, said.head.stream) == (400, False)
    assert said.json["error"]["message"]


async def test_leaving_before_the_first_token_leaves_nothing(dense: Asker) -> None:
    engine = dense.engine._engine
    await engine.pause_generation(mode="keep")
    try:
        frames = dense.engine.stream(dense.call("chat", **STREAMS["chat"], stream=True))
        await asyncio.wait_for(anext(frames), 120)
        assert dense.engine.load()["unfinished"] == 1
        await frames.aclose()
        assert dense.engine.load() == {"streams": 0, "unfinished": 0}
    finally:
        await engine.resume_generation()
