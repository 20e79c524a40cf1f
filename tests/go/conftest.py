"""A gateway over real sockets, as the component tests have it; a whole cluster with the tiny model; a control plane of Kubernetes; and the programs that are built for these tests."""

import asyncio
import subprocess
from pathlib import Path

import pytest
from tests.bench import cluster as clusters
from tests.component.gateway.conftest import gateway  # noqa: F401  # a fixture of these tests too
from tests.e2e.conftest import GREETER, with_rooms
from tests.go.kube import CHART, STORAGE
from tests.real.control_plane import ControlPlane
from tests.real.disks import Provisioner
from tests.real.tools import tool

SAYS_S = 240
TEST_S = 900
QUICK = ("--set", "profiles.quick.thinking=false", "--set", "roles.quick.profile=quick")
"""A role that does not think: the tiny model has random weights, and would think until its answer is full."""


def pytest_collection_modifyitems(items):
    """What builds a cluster first, or a control plane, may take minutes of a busy machine: no test here is ended before."""
    for item in items:
        if (
            Path(__file__).parent in item.path.parents
            and item.get_closest_marker("timeout") is None
        ):
            item.add_marker(pytest.mark.timeout(TEST_S))


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
    """One for all tests here that need an engine, brought up by the command that a user calls, with a room of these tests."""
    folder = tmp_path_factory.mktemp("cluster")
    with clusters.up("tiny", folder, extra=QUICK, env=with_rooms(GREETER)) as made:
        yield made


@pytest.fixture(scope="session")
def plane(tmp_path_factory):
    """One control plane with KWOK's nodes, the KubeRay operator and disks for claims, for all tests of the chart."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as made, Provisioner(made):
        made.create(STORAGE)
        yield made


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    """The chart as it is handed out: packed by Helm."""
    folder = tmp_path_factory.mktemp("chart")
    done = subprocess.run([tool("helm"), "package", str(CHART), "-d", str(folder)], capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.tgz"))
