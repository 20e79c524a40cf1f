"""One supervisor per state folder, and what a crash leaves behind: processes, shared memory, numbers of another run of the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.component.supervisor.running import SHARER, Running, Site
from tests.waiting import until

from consilium.cli import preflight
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor import ending, processes
from consilium.supervisor.loop import hold_lock
from consilium.supervisor.state_folder import Cluster, Pid


def test_what_killed_processes_have_in_shared_memory_is_found_and_removed(site: Site) -> None:
    """A semaphore of the one who made it and a block, as engines have them; a process that is killed takes its tracker, who would remove them, along."""
    made = subprocess.Popen(
        [sys.executable, "-c", SHARER],
        stdout=subprocess.PIPE,
        text=True,
        env=site.environment,
        start_new_session=True,
    )
    assert made.stdout is not None
    names = {Path("/dev/shm", name) for name in made.stdout.readline().split()}
    found = processes.shared_memory(processes.marked(site.cluster.mark))
    assert found == names
    os.killpg(made.pid, signal.SIGKILL)
    made.communicate()
    assert all(path.exists() for path in names)
    processes.remove_shared(found)
    assert not any(path.exists() for path in names)


def test_the_lock_passes_from_the_start_to_the_supervisor_without_a_gap(site: Site) -> None:
    with preflight.check_alone(site.folder) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=(lock.fileno(),)
        )
    try:
        with pytest.raises(ConsiliumError) as caught:
            preflight.check_alone(site.folder)
        assert caught.value.code == "already_running"
    finally:
        child.kill()
        child.wait()
    preflight.check_alone(site.folder).close()


def test_a_supervisor_takes_the_lock_that_it_is_handed(site: Site) -> None:
    words = [
        sys.executable,
        "-m",
        "consilium.supervisor.app",
        "--state",
        str(site.folder.root),
        "--lock-fd",
    ]
    with preflight.check_alone(site.folder) as lock:
        done = subprocess.run(
            [*words, str(lock.fileno())],
            pass_fds=(lock.fileno(),),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "cluster.json is missing" in done.stderr


def test_a_second_supervisor_of_the_same_folder_is_refused(site: Site) -> None:
    lock = hold_lock(site.folder)
    assert lock is not None
    with lock:
        assert hold_lock(site.folder) is None
        with pytest.raises(ConsiliumError) as caught:
            preflight.check_alone(site.folder)
        assert caught.value.code == "already_running"
        done = subprocess.run(
            [sys.executable, "-m", "consilium.supervisor.app", "--state", str(site.folder.root)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 70
        assert "running already" in done.stderr


def test_what_a_crash_left_behind_is_ended_before_the_next_start(site: Site) -> None:
    """Two leftovers: one that was written down, one that is known by its mark alone. A stranger with a number that was used again is left in peace."""
    sleep = "import time; time.sleep(600)"
    written = subprocess.Popen([sys.executable, "-c", sleep])
    marked = subprocess.Popen([sys.executable, "-c", sleep], env=site.environment)
    stranger = subprocess.Popen([sys.executable, "-c", sleep])
    try:
        first, other = processes.identify(written.pid), processes.identify(stranger.pid)
        assert first is not None
        assert other is not None
        gone = Pid(2**22 - 1, 1.0)
        site.folder.write_cluster(
            Cluster(
                str(site.folder.root),
                "up",
                site.cluster.mark,
                "tiny",
                0.0,
                processes.boot_id(),
                gone,
                left=(first, Pid(other.pid, other.started + 1)),
            )
        )
        said: list[str] = []
        preflight.end_leftovers(site.folder, said.append)
        assert [line.partition(":")[0] for line in said] == [
            "A cluster runs here that nobody looks after",
            "Ending 2 processes that a crash left behind.",
        ]
        assert written.wait(10) != 0
        assert marked.wait(10) != 0
        assert stranger.poll() is None
    finally:
        for process in (written, marked, stranger):
            process.kill()
            process.wait()


def test_numbers_of_another_run_of_the_machine_are_nobody(site: Site) -> None:
    me = processes.identify(os.getpid())
    assert me is not None
    cluster = Cluster(
        str(site.folder.root), "up", site.cluster.mark, "tiny", 0.0, "another boot", me, left=(me,)
    )
    assert ending.family_of(cluster) == ()
    site.folder.write_cluster(cluster)
    assert ending.stop(site.folder, cluster) == 0


def test_ray_leaves_its_last_logs_in_the_state_folder_and_nothing_in_tmp(site: Site) -> None:
    folder = site.folder
    folder.make_ray_temp()
    (folder.engine_sockets / "a-socket").touch()
    logs = folder.ray_temp / "session_2026-11-27" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("what it said")
    (folder.ray_temp / "session_latest").symlink_to(logs.parent)
    assert folder.ray_logs == folder.ray_temp
    for _ in range(2):  # the second finds nothing, and keeps what is there
        folder.clear_ray_temp()
        assert not folder.ray_temp.parent.exists()
        kept = folder.ray_logs / "session_latest" / "logs" / "raylet.err"
        assert kept.read_text() == "what it said"
        assert kept.is_relative_to(folder.root)


def test_a_supervisor_that_ends_leaves_nothing_in_tmp(site: Site) -> None:
    site.folder.make_ray_temp()
    running = Running(site.supervisor({"ray": site.head()}))
    until(lambda: running.state("ray") == "up")
    assert running.stop() == 0
    assert not site.folder.ray_temp.parent.exists()
