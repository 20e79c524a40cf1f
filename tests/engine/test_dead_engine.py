"""The engine core is killed in the middle of a stream: a clean end for the caller, one cause for us, and no hanging."""

import asyncio
import contextlib
import os
import signal

import psutil
import pytest

from consilium.engine import warm_spawn, wire
from consilium.engine.ports import State
from consilium.kernel.errors import ConsiliumError

from .conftest import running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]


def cores() -> set[int]:
    """Return the process ids of the engine cores of this process; one that was started warm keeps the command line it was started with."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # what an earlier engine left may be ending just now
            title = f"{child.name()} {' '.join(child.cmdline())}"
            if "EngineCore" in title or warm_spawn.MODULE in title:
                found.add(child.pid)
    return found


async def test_a_killed_core_ends_streams_and_reports_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    died: asyncio.Queue[BaseException] = asyncio.Queue()
    others = cores()
    async for asker in running(tmp_path_factory.mktemp("models"), "tiny-base", template=False, on_dead=died.put_nowait):
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 400, "ignore_eos": True}
        streams = [asker.engine.stream(asker.call("chat", stream=True, **body)) for _ in range(3)]
        whole = asyncio.create_task(asker.ask("chat", **body))
        for stream in streams:
            assert (await anext(stream)).startswith(wire.HEAD)
        (core,) = cores() - others
        os.kill(core, signal.SIGKILL)
        async with asyncio.timeout(10):
            for stream in streams:
                rest = b"".join([frame async for frame in stream])
                assert b'"code":"upstream_down"' in rest
                assert wire.DONE in rest
            with pytest.raises(ConsiliumError, match="upstream_down"):
                await whole
            assert isinstance(await died.get(), Exception)
        assert died.empty()
        assert asker.engine.info().state is State.DOWN
        for refused in (asker.engine.check(), asker.ask("chat", **body)):
            with pytest.raises(ConsiliumError, match="upstream_down"):
                await refused
