"""The engine core is stopped and goes on: meanwhile it is told as silent, though nobody asks it anything."""

import os
import signal

import pytest

from consilium.engine.ports import State
from tests.waiting import until_true

from .conftest import Asker

pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn of themselves
]


async def test_a_stopped_core_is_told_as_silent(dense: Asker) -> None:
    """Nobody asks it anything: the question that it owes is the engine's own."""
    (core,) = dense.cores
    await until_true(lambda: dense.engine.info().silent_s < 0.5, limit_s=120.0)
    os.kill(core, signal.SIGSTOP)
    try:
        await until_true(lambda: dense.engine.info().silent_s > 2.0, limit_s=120.0)
        assert dense.engine.info().state is State.READY
    finally:
        os.kill(core, signal.SIGCONT)
    await until_true(lambda: dense.engine.info().silent_s == 0.0, limit_s=120.0)
