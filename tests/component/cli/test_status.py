"""`consilium status` over real processes and sockets: it answers, whatever hangs, and tells who looks after the cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.waiting import until

from consilium.cli import app, status
from consilium.supervisor import outside_look, processes
from consilium.supervisor.state_folder import Cluster, PartRecord, Pid, StateFolder

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")
READY = {"ready": True, "executors": {"core": "ready"}}


class Stage:
    """A state folder, with processes and sockets in place of a cluster's."""

    def __init__(self, root: Path, stack: ExitStack) -> None:
        self.folder, self._stack = StateFolder(root), stack
        self.folder.make()
        self.supervisor = self.process()

    def process(self) -> Pid:
        child = subprocess.Popen(SLEEP)

        def end() -> None:
            child.kill()
            child.wait()

        self._stack.callback(end)
        known = processes.identify(child.pid)
        assert known is not None
        return known

    def deaf(self) -> str:
        """Address of a socket that takes connections and says nothing, as that of a stopped process."""
        listening = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        return f"127.0.0.1:{listening.getsockname()[1]}"

    def gateway(self, said: dict[str, object]) -> str:
        """Address of what answers every GET with this."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(said).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"127.0.0.1:{server.server_port}"

    def write(self, at: str, redis: str, **parts: PartRecord) -> Cluster:
        http = f"http://{at}"
        cluster = Cluster(
            str(self.folder.root),
            "up",
            "mark",
            "tiny",
            time.time() - 100,
            processes.boot_id(),
            self.supervisor,
            addresses={
                "http": http,
                "openai": f"{http}/v1",
                "grpc": "127.0.0.1:9",
                "metrics": "http://127.0.0.1:9/metrics",
                "redis": f"redis://{redis}/0",
            },
            parts={
                "redis": PartRecord("up", pids=(self.process(),)),
                "gateway": PartRecord("up"),
                "core": PartRecord("up", log="engine"),
                "metrics": PartRecord("up"),
                **parts,
            },
            executors={"core": "ready"},
        )
        self.folder.write_cluster(cluster)
        self.folder.looked.touch()
        return cluster

    def status(self, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
        code = app.main(["status", "--state", str(self.folder.root)])
        return code, capsys.readouterr().out

    def told(self, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
        app.main(["status", "--output", "json", "--state", str(self.folder.root)])
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers does so in milliseconds; a busy machine has some seconds for that, and what hangs does so for ever."""
    monkeypatch.setattr(status, "EXTRAS_S", 4.0)
    monkeypatch.setattr(outside_look, "LOOK_S", 4.0)
    monkeypatch.setattr(status, "ELSEWHERE_S", 4.0)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path / "state", stack)


def test_all_is_well(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.write(stage.gateway(READY), stage.deaf())
    code, said = stage.status(capsys)
    assert code == 0
    assert "down" not in said
    assert "degraded" not in said


def test_what_hangs_keeps_nobody_waiting_and_what_is_known_is_told(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()
    stage.write(
        stage.deaf(),
        stage.deaf(),
        gateway=PartRecord(
            "silent", since=now - 7, down=now - 7, why="does not answer (timed out)"
        ),
    )
    code, said = stage.status(capsys)
    assert code == 5
    assert "down: gateway has not answered since " in said
    assert re.search(r"\(\d+ s\): does not answer \(timed out\)", said)
    assert "not answering" in said


def test_a_part_that_is_not_vital_leaves_it_degraded(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = PartRecord("silent", since=time.time() - 3, down=time.time() - 3, vital=False)
    stage.write(stage.gateway(READY), stage.deaf(), library=gone)
    code, said = stage.status(capsys)
    assert code == 3
    assert "degraded: library has not answered since " in said


def test_a_configured_adapter_that_cannot_be_taken_in_leaves_it_degraded(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "sport", "current": "f" * 64, "not_taken_in": "/gone: there is no such folder"}
    stage.write(stage.gateway(READY | {"adapters": [row, {"name": "a"}]}), stage.deaf())
    code, said = stage.status(capsys)
    assert code == 3
    assert (
        "degraded: adapters.sport is not as the configuration says, and the version that is" in said
    )
    told = stage.told(capsys)
    assert told["healthy"] is False
    assert list(told["adapters_not_taken_in"]) == ["sport"]  # type: ignore[call-overload]


def test_an_executor_that_owes_an_answer_is_told(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = stage.write(stage.gateway(READY), stage.deaf())
    stage.folder.write_cluster(replace(cluster, executors={"core": "ready", "hands": "silent"}))
    code, said = stage.status(capsys)
    assert code == 3
    assert "degraded: the executor hands is silent" in said


def test_a_supervisor_that_is_gone_leaves_a_cluster_that_nobody_looks_after(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    """It answered all the same, and `status` said that none was running."""
    ray = stage.process()
    stage.write(stage.gateway(READY), stage.deaf(), ray=PartRecord("up", pids=(ray,)))
    os.kill(stage.supervisor.pid, signal.SIGKILL)
    os.waitpid(stage.supervisor.pid, 0)
    code, said = stage.status(capsys)
    assert code == 5  # this Redis does not answer
    assert "it runs, but nobody looks after it since" in said
    assert "redis has not answered since" in said
    assert "next: 'consilium up' starts it again" in said
    told = stage.told(capsys)
    assert (told["phase"], told["healthy"]) == ("unattended", False)
    assert told["executors"] == [{"name": "core", "state": "ready"}]
    states = {name: part["state"] for name, part in told["parts"].items()}  # type: ignore[attr-defined]
    assert states == {
        "redis": "silent",
        "gateway": "up",
        "core": "up",
        "metrics": "silent",
        "ray": "up",
    }
    processes.end((ray,), grace_s=0.0)
    assert "ray has not answered since" in stage.status(capsys)[1]


def test_nothing_runs_once_its_processes_are_gone(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = stage.write(stage.deaf(), stage.deaf())
    processes.end((stage.supervisor, *cluster.parts["redis"].pids), grace_s=0.0)
    assert app.main(["status", "--state", str(stage.folder.root)]) == 71
    capsys.readouterr()


def test_a_supervisor_that_stands_still_is_told_and_its_word_is_not_believed(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = {**READY, "silent_s": {"core": 4.0}}
    stage.write(stage.gateway(silent), stage.deaf())
    os.kill(stage.supervisor.pid, signal.SIGSTOP)
    until(lambda: processes.is_stopped(stage.supervisor))
    code, said = stage.status(capsys)
    assert code == 5
    assert f"the supervisor (pid {stage.supervisor.pid}) has not looked after it since" in said
    assert "core has not answered since" in said
    assert "its engine does not answer" in said
    os.kill(stage.supervisor.pid, signal.SIGCONT)
    until(lambda: not processes.is_stopped(stage.supervisor))
    assert stage.status(capsys)[0] == 0
    past = time.time() - 60
    os.utime(stage.folder.looked, (past, past))  # it runs, and hangs
    assert "has not looked after it since" in stage.status(capsys)[1]


@pytest.mark.parametrize(
    ("said", "code", "word"),
    [
        ({"ready": True, "executors": {"core": "ready"}}, 0, "ready"),
        ({"ready": True, "executors": {"core": "ready", "hands": "down"}}, 3, "degraded"),
        ({"ready": False, "executors": {"core": "starting"}}, 5, "its engine gives no token"),
        (None, 5, "the gateway does not answer"),
    ],
)
def test_a_cluster_elsewhere_is_asked_for_its_executors(
    stage: Stage,
    capsys: pytest.CaptureFixture[str],
    said: dict[str, object] | None,
    code: int,
    word: str,
) -> None:
    at = stage.deaf() if said is None else stage.gateway(said)
    assert app.main(["status", "--endpoint", f"http://{at}/v1"]) == code
    assert word in capsys.readouterr().out
    assert app.main(["status", "--output", "json", "--endpoint", f"http://{at}/v1"]) == code
    assert json.loads(capsys.readouterr().out)["healthy"] is (code == 0)
