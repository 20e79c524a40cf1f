"""`consilium up` that does not get to its end, and `consilium logs -f`, as processes with signals. No engine comes up here."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.command import MODULE
from tests.interrupted import HEARING
from tests.waiting import until

from consilium.supervisor import processes
from consilium.supervisor.loop import hold_lock
from consilium.supervisor.state_folder import Cluster, StateFolder

WORDS = (sys.executable, *MODULE)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    found = StateFolder(tmp_path / "state")
    yield found
    cluster = found.read_cluster()
    if cluster is not None:
        processes.end(processes.marked(cluster.mark), grace_s=0.5)
    shutil.rmtree(found.ray_temp.parent, ignore_errors=True)


def known(folder: StateFolder) -> Cluster:
    found = folder.read_cluster()
    assert found is not None
    return found


def nothing_is_left(folder: StateFolder) -> None:
    cluster = known(folder)
    assert cluster.phase in {"stopped", "failed"}
    assert processes.marked(cluster.mark) == ()
    lock = hold_lock(folder)
    assert lock is not None, "the next start is not kept out"
    lock.close()


def test_the_sockets_of_killed_engines_are_gone_when_ray_is_started_again(
    folder: StateFolder,
) -> None:
    folder.make_ray_temp()
    stale = folder.engine_sockets / "7b0d3d0e-1d5c-4d6e-9d67-1f0f6b9f5f0a"
    stale.touch()
    folder.make_ray_temp()
    assert folder.engine_sockets.stat().st_uid == folder.ray_temp.parent.stat().st_uid
    assert not stale.exists()


def test_a_start_that_takes_too_long_is_given_up_and_undone(folder: StateFolder) -> None:
    words = (*WORDS, "up", "--model", "tiny", "--wait", "1", "--state", str(folder.root))
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 72, done.stderr
    assert "not ready in time (--wait)" in done.stderr
    nothing_is_left(folder)


def test_ctrl_c_while_starting_undoes_the_start(folder: StateFolder) -> None:
    process = subprocess.Popen(
        (*HEARING, *MODULE, "up", "--model", "tiny", "--state", str(folder.root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(
            lambda: (
                folder.cluster.exists()
                and "redis" in known(folder).parts
                and known(folder).parts["redis"].state == "up"
            )
        )
        until(
            lambda: len(processes.marked(known(folder).mark)) > 5
        )  # Ray's head has begun to start others
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert re.search(r"the start was undone, \d+ processes ended", said)
    nothing_is_left(folder)


def test_logs_are_followed_also_into_a_file_that_is_new_and_one_that_begins_again(
    folder: StateFolder, tmp_path: Path
) -> None:
    folder.make()
    folder.log("redis").write_text("one\ntwo\nthree\n")
    said = tmp_path / "said"
    with said.open("wb") as out:
        process = subprocess.Popen(
            (*HEARING, *MODULE, "logs", "-f", "-n", "1", "--state", str(folder.root)),
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        until(lambda: "three" in said.read_text())
        assert "two" not in said.read_text()
        with folder.log("redis").open("a") as log:
            log.write("four\n")
        until(lambda: "four" in said.read_text())
        folder.log("supervisor").write_text("begun\n")
        until(lambda: "begun" in said.read_text())
        assert f"==> supervisor: {folder.log('supervisor')}" in said.read_text()
        folder.log("redis").write_text("anew\n")
        until(lambda: "anew" in said.read_text())
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, complaint) == (130, "stopped\n")
    assert said.read_text().count("four") == said.read_text().count("three") == 1
