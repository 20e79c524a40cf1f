"""The engine core is killed in the middle of a stream: a clean end for the caller, one cause for us, and no hanging. The last that asks it."""

import asyncio
import os
import signal

import pytest

from consilium.engine import wire
from consilium.engine.ports import State
from consilium.kernel.errors import ConsiliumError

from .conftest import Asker

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]


async def test_a_killed_core_ends_streams_and_reports_once(dense: Asker) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "ignore_eos": True}
    streams = [dense.engine.stream(dense.call("chat", stream=True, **body)) for _ in range(3)]
    whole = asyncio.create_task(dense.ask("chat", **body))
    for stream in streams:
        assert (await anext(stream)).startswith(wire.HEAD)
        assert b"data: " in await anext(stream)
    await dense.engine._engine.pause_generation(mode="keep")
    silent = dense.engine.stream(dense.call("chat", stream=True, **body))
    assert (await anext(silent)).startswith(wire.HEAD)
    assert dense.died.empty()
    (core,) = dense.cores
    os.kill(core, signal.SIGKILL)
    async with asyncio.timeout(240):
        for stream in streams:
            rest = b"".join([frame async for frame in stream])
            assert b'"code":"upstream_down"' in rest
            assert wire.DONE in rest
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await whole
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await anext(silent)  # it has said nothing yet, so another may answer in its place
        assert isinstance(await dense.died.get(), Exception)
    assert dense.died.empty()
    assert dense.engine.info().state is State.DOWN
    for refused in (dense.engine.check(), dense.ask("chat", **body)):
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await refused
