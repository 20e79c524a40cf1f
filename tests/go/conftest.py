"""A gateway over real sockets, as the component tests have it; and the programs that are built for these tests."""

import asyncio

import pytest
from tests.component.gateway.conftest import gateway  # noqa: F401  # a fixture of these tests too
from tests.real.tools import tool

SAYS_S = 60


@pytest.fixture
def said():
    """Run a program of the tools, and return what it said. The test is skipped, or fails in CI, where it was not built."""

    async def run(name, *words):
        process = await asyncio.create_subprocess_exec(
            tool(name), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), SAYS_S)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, f"{out.decode()}\n{err.decode()}"
        return out.decode()

    return run
