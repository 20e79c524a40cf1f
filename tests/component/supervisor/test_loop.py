"""The supervisor over real processes: a real Redis, and small programs in place of Ray and what runs on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest

from consilium.cli import preflight
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import free_port
from consilium.kernel.private_file import write_private
from consilium.kernel.process import child_environment
from consilium.supervisor import commands, ending, probes, processes
from consilium.supervisor.loop import Supervisor, hold_lock
from consilium.supervisor.metrics_page import MetricsServer
from consilium.supervisor.part_process import ProbeWork, ProcessWork
from consilium.supervisor.parts import derive, own_redis_url
from consilium.supervisor.redis_server import choose_binary
from consilium.supervisor.state_folder import Cluster, Pid, StateFolder
from consilium.supervisor.states import Part

# A head that makes its file and has a grandchild which ignores SIGTERM, as an engine core may.
HEAD = """
import pathlib, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""
MILD = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
"""A head that ends when it is told, for those tests that are about something else."""
SHARER = """
import multiprocessing, time
from multiprocessing.shared_memory import SharedMemory
context = multiprocessing.get_context("spawn")
lock, block = context.Lock(), SharedMemory(create=True, size=4096)
print("sem." + lock._semlock.name.lstrip("/"), block.name.lstrip("/"), flush=True)
time.sleep(600)
"""
TASK = "import pathlib, sys; pathlib.Path(sys.argv[1]).open('a').write('x')"
BROKEN = "import sys; sys.exit('error: x: there is no folder /x')"


def until(what: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class Site:
    folder: StateFolder
    cluster: Cluster
    environment: dict[str, str]

    def process(
        self,
        name: str,
        code: str,
        *words: str,
        probe: Callable[[], tuple[bool, str]],
        after: Callable[[], None] | None = None,
    ) -> ProcessWork:
        return ProcessWork(
            (sys.executable, "-c", code, *words),
            log=self.folder.log(name),
            environment=self.environment,
            probe=probe,
            after=after,
        )


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


class Running:
    """A supervisor in a thread of this process."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def state(self, name: str) -> str:
        part = self.supervisor.cluster.parts.get(name)
        return part.state if part else ""

    def stop(self) -> int | None:
        self.supervisor.ask_to_stop()
        self.thread.join(30)
        return self.code


def ray_like(site: Site, head: str = HEAD) -> Supervisor:
    ready, done = site.folder.root / "ready", site.folder.root / "done"
    works = {
        "ray": site.process(
            "ray",
            head,
            str(ready),
            probe=lambda: (ready.exists(), ""),
            after=lambda: ready.unlink(missing_ok=True),
        ),
        "engine": site.process("engine", TASK, str(done), probe=lambda: (done.exists(), "")),
    }
    parts = (Part("ray"), Part("engine", needs=("ray",), lives=False, within=("ray",)))
    return Supervisor(
        folder=site.folder,
        cluster=site.cluster,
        parts=parts,
        works=works,
        addresses={},
        order=("engine", "ray"),
    )


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
        addresses={},
        order=("ray",),
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
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("ray"),),
            works={"ray": work},
            addresses={},
            order=("ray",),
        )
    )
    running.thread.join(30)
    assert running.code == 75


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
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert "cluster.json is missing" in done.stderr


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
            addresses={},
            order=("ray", "model"),
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
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("redis"),),
            works=works,
            addresses={},
            order=("redis",),
        )
    )
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
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("redis"),),
            works=works,
            addresses={},
            order=("redis",),
        )
    )
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
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("core"),),
            works=works,
            addresses={},
            order=("core",),
        )
    )
    until(lambda: running.state("core") == "up")
    assert running.stop() == 0


def redis_of(site: Site) -> tuple[ProcessWork, str]:
    site.folder.make_secrets()
    secret, port = site.folder.secret.read_text(), free_port()
    url = own_redis_url(secret, port)
    conf = site.folder.redis / "redis.conf"
    write_private(
        conf,
        commands.redis_conf(port=port, password=derive(secret, "redis"), folder=site.folder.redis),
    )
    command = commands.redis_command(choose_binary(), conf)
    return ProcessWork(
        command,
        log=site.folder.log("redis"),
        environment=site.environment,
        probe=lambda: (probes.redis_answers(url), ""),
    ), url


def test_our_own_redis_keeps_its_data_over_a_kill(site: Site) -> None:
    import redis

    work, url = redis_of(site)
    running = Running(
        Supervisor(
            folder=site.folder,
            cluster=site.cluster,
            parts=(Part("redis"),),
            works={"redis": work},
            addresses={},
            order=("redis",),
        )
    )
    until(lambda: running.state("redis") == "up")
    assert not probes.redis_answers(url.replace("redis://:", "redis://:x")), (
        "a wrong password is no answer"
    )
    with redis.Redis.from_url(url) as client:
        assert client.info("server")["redis_version"] >= "7"
        client.set("k", "v")
        client.execute_command("WAITAOF", 1, 0, 2000)
    processes.send(running.supervisor.cluster.parts["redis"].pids[0], signal.SIGKILL)
    until(
        lambda: (
            running.supervisor.cluster.parts["redis"].restarts == 1
            and running.state("redis") == "up"
        )
    )
    with redis.Redis.from_url(url) as client:
        assert client.get("k") == b"v"
    assert running.stop() == 0
    assert processes.marked(site.cluster.mark) == ()


def test_the_metrics_page_says_which_parts_are_up(site: Site) -> None:
    port = free_port()
    server = MetricsServer(
        host="127.0.0.1",
        port=port,
        folder=site.folder.metrics,
        ray_url="http://127.0.0.1:9/metrics",
    )
    server.look_at(lambda: {"ray": True, "redis": False})
    server.start()
    try:
        status, body = probes.http_get(f"http://127.0.0.1:{port}/metrics", timeout_s=10)
        assert status == 200
        assert b'consilium_part_up{part="ray"} 1' in body
        assert b'consilium_part_up{part="redis"} 0' in body
        assert probes.http_get(f"http://127.0.0.1:{port}/other")[0] == 404
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
            packed = client.get("/metrics", headers={"accept-encoding": "gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.content == body
            head = client.head("/metrics", headers={"accept-encoding": "identity"})
            assert head.status_code == 200
            assert int(head.headers["content-length"]) == len(body)
            assert head.content == b""
    finally:
        server.stop()


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
            timeout=30,
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
        assert said == ["Ending 2 processes that a crash left behind."]
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
