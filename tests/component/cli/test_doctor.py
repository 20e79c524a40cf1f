"""`consilium doctor` as a person calls it, on this machine."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilium.cli import app
from consilium.supervisor.state_folder import StateFolder

HEAVY = ("vllm", "torch", "ray", "transformers", "onnxruntime")


def test_it_answers_and_imports_no_engine(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from consilium.cli.app import main\n"
        f"code = main(['doctor', '--state', {str(tmp_path / 'state')!r}, '--output', 'json'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    print(f"answered after {time.monotonic() - begun:.2f} s")
    assert done.stderr.strip() == "[]"
    told = json.loads(done.stdout)
    failures = [one for one in told["findings"] if one["level"] == "failure"]
    assert (done.returncode, told["healthy"]) == ((3, False) if failures else (0, True))
    assert not failures, failures
    assert not (tmp_path / "state").exists()  # looking makes nothing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.chdir(tmp_path)
    made = StateFolder(tmp_path / "state")
    made.make()
    return made


def findings(
    capsys: pytest.CaptureFixture[str], folder: StateFolder, *words: str
) -> tuple[int, dict[str, dict[str, str]]]:
    code = app.main(["doctor", "--state", str(folder.root), "--output", "json", *words])
    told = json.loads(capsys.readouterr().out)
    return code, {one["id"]: one for one in told["findings"]}


def test_what_fails_is_told_with_the_way_out(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("consilium.yaml").write_text(
        "model: tiny\n"
        "redis: {url: 'redis://:hush@127.0.0.1:1/0'}\n"
        "executors:\n  far: {url: 'http://127.0.0.1:1/v1', model: m, key_env: NO_SUCH_KEY_HERE}\n"
    )
    folder.cluster.write_text("{")
    code, told = findings(capsys, folder)
    assert code == 3
    levels = {name: one["level"] for name, one in told.items()}
    assert levels["redis_answers"] == "failure"
    assert levels["remote_keys"] == "failure"
    assert levels["remote_answers"] == "warning"
    assert levels["cluster_record"] == "failure"
    assert "hush" not in json.dumps(told)


def test_a_configuration_with_errors(
    folder: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("consilium.yaml").write_text("engine: {max_num_seq: 3}\n")
    code, told = findings(capsys, folder)
    assert code == 3
    assert "'max_num_seqs'" in told["configuration"]["sentence"]


def test_a_model_that_nobody_knows(folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = findings(capsys, folder, "--model", "tinny")
    assert code == 3
    assert "did you mean 'tiny'" in told["model"]["sentence"]
    assert told["model"]["way_out"]


def test_a_port_that_is_taken(
    folder: StateFolder, capsys: pytest.CaptureFixture[str], server: int
) -> None:
    code, told = findings(capsys, folder, "--port", str(server))
    assert code == 3
    assert str(server) in told["ports"]["sentence"]


@pytest.fixture
def server() -> Iterator[int]:
    """An OpenAI-compatible server that has no models."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": []}')

        def log_message(self, *_: object) -> None:
            return

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made.server_port
    made.shutdown()
    made.server_close()


def test_a_remote_executor_that_answers(
    folder: StateFolder, capsys: pytest.CaptureFixture[str], server: int
) -> None:
    Path("consilium.yaml").write_text(
        f"model: tiny\nexecutors:\n  far: {{url: 'http://127.0.0.1:{server}/v1', model: m}}\n"
    )
    code, told = findings(capsys, folder)
    assert code == 0
    assert told["remote_answers"]["level"] == "ok"


def test_for_people(folder: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--state", str(folder.root), "--model", "tinny"]) == 3
    out = capsys.readouterr().out
    assert "failure model: " in out
    assert "checks: 1 failure" in out
