"""The supervisor over real processes, from its start to its end: small programs in place of Ray and what runs on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from tests.component.supervisor.running import BROKEN, HEAD, MILD, Running, Site, ray_like
from tests.waiting import until

from consilium.kernel.errors import ConsiliumError
from consilium.supervisor import loop, probes, processes
from consilium.supervisor.loop import Supervisor
from consilium.supervisor.part_process import ProbeWork, ProcessWork
from consilium.supervisor.state_folder import Cluster, StateFolder
from consilium.supervisor.states import Part


def test_start_crash_restart_and_nothing_left(site: Site) -> None:
    running = Running(ray_like(site))
    until(lambda: running.supervisor.cluster.phase == "up")
    until(lambda: len(processes.marked(site.cluster.mark)) == 2)
    until(lambda: len(running.supervisor.cluster.parts["ray"].pids) == 2)
    ray = running.supervisor.cluster.parts["ray"].pids[0]

    processes.send(ray, signal.SIGKILL)
    until(
        lambda: (
            running.supervisor.cluster.parts["ray"].restarts == 1
            and running.state("engine") == "up"
            and running.state("ray") == "up"
        )
    )
    until(
        lambda: (site.folder.root / "done").read_text() == "xx"
    )  # what runs on Ray is deployed again
    until(
        lambda: len(processes.marked(site.cluster.mark)) == 2
    )  # the grandchild of the dead head went with it

    assert running.stop() == 0
    assert processes.marked(site.cluster.mark) == ()
    left = site.folder.read_cluster()
    assert left is not None
    assert left.phase == "stopped"


def test_what_another_thread_tells_while_the_record_is_made_is_kept(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's thread tells the key. It was lost where the supervisor's own thread had read the record and not yet put it back."""
    supervisor = ray_like(site, MILD)
    was_told = False

    def told_in_between(cluster: Cluster, **changes: object) -> Cluster:
        nonlocal was_told
        made = replace(cluster, **changes)  # type: ignore[arg-type]
        if not was_told:
            was_told = True
            supervisor.learn(key="csl-told")
        return made

    monkeypatch.setattr("consilium.supervisor.loop.replace", told_in_between)
    supervisor.step()
    supervisor.ask_to_stop()
    assert supervisor.run() == 0
    known = site.folder.read_cluster()
    assert known is not None
    assert was_told
    assert known.key == "csl-told"


def test_a_full_disk_and_a_broken_drain_keep_nothing_from_being_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = site.folder.root / "ready"
    works = {"ray": site.process("ray", HEAD, str(ready), probe=lambda: (ready.exists(), ""))}

    def broken() -> None:
        raise ValueError("a page that cannot be read")

    supervisor = Supervisor(
        folder=site.folder,
        cluster=site.cluster,
        parts=(Part("ray"),),
        works=works,
        drain=broken,
    )
    running = Running(supervisor)
    until(lambda: supervisor.cluster.phase == "up")

    def full(_folder: StateFolder, _cluster: Cluster) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateFolder, "write_cluster", full)
    assert running.stop() == 0
    assert processes.marked(site.cluster.mark) == ()


def test_a_part_that_cannot_be_started_is_told_by_its_own_code(site: Site) -> None:
    work = site.process("ray", HEAD, probe=lambda: (False, ""))

    def refuse() -> None:
        raise ConsiliumError("state_damaged", path="/tmp/x", reason="it belongs to another user")

    work.start = refuse  # type: ignore[method-assign]
    running = Running(site.supervisor({"ray": work}))
    running.thread.join(30)
    assert running.code == 75


def test_what_ran_before_the_supervisor_is_not_its_to_end(site: Site) -> None:
    mine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        running = Running(ray_like(site, MILD))
        until(lambda: running.supervisor.cluster.phase == "up")
        assert running.stop() == 0
        assert mine.poll() is None
    finally:
        mine.kill()
        mine.wait()


def test_a_part_that_cannot_start_ends_everything_with_its_own_code(site: Site) -> None:
    ready = site.folder.root / "ready"
    works = {
        "ray": site.process("ray", MILD, str(ready), probe=lambda: (ready.exists(), "")),
        "model": site.process(
            "model",
            "import sys; sys.stderr.write('error: x: there is no folder /x\\nnext: Name a folder.\\n'); sys.exit(68)",
            probe=lambda: (False, ""),
        ),
    }
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("ray"), Part("model", lives=False)),
            works=works,
        )
    )
    running.thread.join(30)
    assert running.code == 68
    cluster = site.folder.read_cluster()
    assert cluster is not None
    assert cluster.phase == "failed"
    assert cluster.failure is not None
    assert (cluster.failure.code, cluster.failure.sentence, cluster.failure.part) == (
        "model_missing",
        "x: there is no folder /x",
        "model",
    )
    assert processes.marked(site.cluster.mark) == ()


def test_a_part_that_falls_again_and_again_is_given_up(site: Site) -> None:
    works = {"redis": site.process("redis", BROKEN, probe=lambda: (False, ""))}
    running = Running(site.supervisor(works))
    running.thread.join(30)
    assert running.code == 72
    cluster = site.folder.read_cluster()
    assert cluster is not None
    assert cluster.failure is not None
    assert "there is no folder" in cluster.failure.sentence


def test_a_program_that_is_not_there_is_told(site: Site) -> None:
    works = {
        "redis": ProcessWork(
            ("/no/such/program",),
            log=site.folder.log("redis"),
            environment={},
            probe=lambda: (False, ""),
        )
    }
    running = Running(site.supervisor(works))
    running.thread.join(30)
    assert running.code == 72


def test_a_step_that_fails_ends_no_cluster(site: Site) -> None:
    """Such as for want of a descriptor: what is up stays up, and the next step looks again."""

    class Stumbling(ProbeWork):
        left = 3

        def answer(self, every_s: float) -> probes.Answer:
            if self.left:
                self.left -= 1
                raise OSError(24, "Too many open files")
            return super().answer(every_s)

    works = {"core": Stumbling(lambda: (True, ""))}
    running = Running(site.supervisor(works))
    until(lambda: running.state("core") == "up")
    assert running.stop() == 0


class NoThread(threading.Thread):
    """What a process gets that may have no more threads."""

    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def fails(*_args: object, **_more: object) -> None:
    raise RuntimeError("a test wants it so")


@pytest.mark.parametrize("step", ["write", "below", "marked", "thread", "end", "drain", "all"])
def test_a_step_of_the_end_that_fails_keeps_no_part_running(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    works = {"store": site.head(name="store"), "worker": site.head(name="worker")}
    supervisor = site.supervisor(
        works, Part("store"), Part("worker", needs=("store",)), drain=lambda: None
    )
    running = Running(supervisor)
    until(lambda: running.supervisor.cluster.phase == "up")
    faults = {
        "write": (supervisor, "_write", fails),
        "below": (loop, "_below_us", fails),
        "marked": (processes, "marked", fails),
        "thread": (loop, "Thread", NoThread),
        "end": (processes, "end", fails),
        "drain": (supervisor, "_drain", fails),
    }
    with monkeypatch.context() as faulty:
        for name, fault in faults.items():
            if step in {name, "all"}:
                faulty.setattr(*fault)
        assert running.stop() == 0
    assert not running.thread.is_alive()
    assert processes.marked(site.cluster.mark) == ()
    if step not in {"write", "all"}:
        left = site.folder.read_cluster()
        assert left is not None
        assert left.phase == "stopped"
