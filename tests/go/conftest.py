"""A gateway over real sockets, as the component tests have it; a whole cluster with the tiny model; and the programs that are built for these tests."""

import asyncio

import pytest
from tests.bench import cluster as clusters
from tests.component.gateway.conftest import gateway  # noqa: F401  # a fixture of these tests too
from tests.real.tools import tool

SAYS_S = 60
QUICK = ("--set", "profiles.quick.thinking=false", "--set", "roles.quick.profile=quick")
"""A role that does not think: the tiny model has random weights, and would think until its answer is full."""


@pytest.fixture
def said():
    """Run a program of the tools, and return what it said. `code` is how it should end. The test is skipped, or fails in CI, where it was not built."""

    async def run(name, *words, code=0):
        process = await asyncio.create_subprocess_exec(
            tool(name), *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), SAYS_S)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == code, f"{out.decode()}\n{err.decode()}"
        return out.decode() or err.decode()

    return run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """One for all tests here that need an engine, brought up by the command that a user calls."""
    with clusters.up("tiny", tmp_path_factory.mktemp("cluster"), extra=QUICK) as made:
        yield made
