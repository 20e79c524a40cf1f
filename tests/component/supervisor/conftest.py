"""A state folder for each test, and the end of what its processes left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.component.supervisor.running import Site

from consilium.kernel.process import child_environment
from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, StateFolder


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = StateFolder(tmp_path / "state")
    folder.make()
    mark = f"test-{os.getpid()}-{time.monotonic_ns()}"
    me = processes.identify(os.getpid())
    assert me is not None
    cluster = Cluster(
        str(folder.root), "starting", mark, "tiny", time.time(), processes.boot_id(), me
    )
    yield Site(folder, cluster, child_environment({"CONSILIUM_MARK": mark}))
    processes.end(processes.marked(mark), grace_s=0.5)
