"""`consilium up` as a person uses it: one cluster with the tiny model for the whole file, and one start that is stopped halfway."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from consilium.cli import processes
from consilium.cli.state_folder import Cluster, StateFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

START_S = 240
RESTART_S = 180
LIMIT_BYTES = 6 * 2**30


@dataclass(frozen=True)
class Up:
    """A running cluster and what `up` said."""

    folder: StateFolder
    said: str

    @property
    def cluster(self) -> Cluster:
        found = self.folder.read_cluster()
        assert found is not None
        return found

    def call(self, *words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        return consilium(*words, "--state", str(self.folder.root), timeout_s=timeout_s)


def consilium(*words: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "consilium.cli.app", *words], check=False, capture_output=True, text=True, timeout=timeout_s)


def until(what: Callable[[], bool], timeout_s: float, why: str) -> float:
    begun = time.monotonic()
    while not what():
        assert time.monotonic() - begun < timeout_s, why
        time.sleep(0.2)
    return time.monotonic() - begun


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = StateFolder(tmp_path_factory.mktemp("up") / "state")
    words = ("up", "--model", "tiny", "--state", str(folder.root), "--set", "engine.max_num_seqs=8", "--set", "roles.sage.frame=You are a sage.")
    try:
        said = consilium(*words, timeout_s=START_S)
        logs = "\n".join(f"== {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(folder.logs.glob("*.log")))
        assert said.returncode == 0, f"{said.stdout}\n{said.stderr}\n{logs}"
        yield Up(folder, said.stdout)
    finally:
        consilium("down", "--now", "--state", str(folder.root), timeout_s=90)


def test_up_says_where_everything_is_and_its_curl_line_works(up: Up) -> None:
    for name in ("openai", "grpc", "metrics"):
        assert up.cluster.addresses[name] in up.said
    curl = next(line for line in up.said.splitlines() if line.startswith("curl"))
    curl = curl.replace('"messages"', '"max_tokens": 8, "messages"')  # the tiny model knows no end
    done = subprocess.run(["bash", "-c", curl], check=True, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_chat_streams_and_why_tells_the_receipt(up: Up) -> None:
    done = up.call("chat", "Hello", "--max-tokens", "8", "--why")
    assert done.returncode == 0, done.stderr
    found = re.search(r"^receipt\s+(\S+)$", done.stdout, re.MULTILINE)
    assert found is not None
    why = up.call("why", found[1], "--output", "json")
    receipt = json.loads(why.stdout)
    assert receipt["executor"] == "core"
    assert receipt["usage"]["completion_tokens"] == 8
    assert up.call("why", "no-such-receipt").returncode == 4


def test_chat_as_a_role_and_not_streamed(up: Up) -> None:
    done = up.call("chat", "Hello", "--role", "sage", "--no-stream", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    wrong = up.call("chat", "Hello", "--role", "sagee")
    assert wrong.returncode == 4
    assert "role/sage" in wrong.stderr


def test_status_is_healthy_and_light(up: Up) -> None:
    done = up.call("status", "--output", "json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["healthy"] is True
    assert {part["state"] for part in found["parts"].values()} == {"up"}
    assert [row["app"] for row in found["replicas"]].count("executor-core") == 1
    assert found["executors"] == [{"name": "core", "state": "ready"}]
    assert 0 < found["pss_bytes"] <= LIMIT_BYTES
    assert "redis" not in found["addresses"], "its password is nobody's business"


def test_a_second_up_says_that_one_is_running(up: Up) -> None:
    done = up.call("up", "--model", "tiny")
    assert done.returncode == 70
    assert "running already" in done.stderr


def test_keys(up: Up) -> None:
    made = json.loads(up.call("keys", "create", "--name", "bob", "--expires", "1h", "--output", "json").stdout)
    ask = {"model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    url = f"{up.cluster.addresses['openai']}/chat/completions"
    assert httpx.post(url, json=ask, headers={"Authorization": f"Bearer {made['key']}"}, timeout=30).status_code == 200
    assert made["key"].rpartition("_")[2] not in up.call("keys", "list").stdout
    assert up.call("keys", "revoke", made["id"]).returncode == 0
    assert up.call("keys", "revoke", "000000000000").returncode == 4


def test_logs_show_the_engine_too(up: Up) -> None:
    said = up.call("logs", "engine", "-n", "2000").stdout
    assert "executor_submitted" in said
    assert "vllm" in said.lower()
    assert up.call("logs", "redis", "-n", "1").stdout.strip()


def test_the_metrics_page_has_the_gateway_ray_and_the_parts(up: Up) -> None:
    page = httpx.get(up.cluster.addresses["metrics"], timeout=30).text
    assert 'consilium_part_up{part="core"} 1' in page
    assert "consilium_gateway_requests_total" in page
    assert "\nray_" in page


def test_a_second_cluster_starts_beside_and_ctrl_c_undoes_it_alone(up: Up, tmp_path: Path) -> None:
    """Ray, Serve and HAProxy of both run at once; no port or socket is shared. The first one does not notice the end of the second."""
    folder = StateFolder(tmp_path / "state")
    process = subprocess.Popen(
        [sys.executable, "-m", "consilium.cli.app", "up", "--model", "tiny", "--state", str(folder.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def gateway_is_up() -> bool:
        cluster = folder.read_cluster()
        return cluster is not None and bool(cluster.parts) and cluster.parts["gateway"].state == "up"

    until(gateway_is_up, 120, "the second gateway came up")
    mark = (folder.read_cluster() or pytest.fail("no cluster.json")).mark
    assert len(processes.marked(mark)) > 3
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"the start was undone, \d+ processes ended", said)
    assert processes.marked(mark) == ()
    assert {part.restarts for part in up.cluster.parts.values()} == {0}
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


def test_a_killed_redis_comes_back_with_its_keys(up: Up) -> None:
    processes.send(up.cluster.parts["redis"].pids[0], signal.SIGKILL)
    until(lambda: up.cluster.parts["redis"].restarts == 1 and up.cluster.parts["redis"].state == "up", 30, "redis came back")
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


def test_a_killed_ray_takes_everything_on_it_along_and_all_comes_back(up: Up) -> None:
    processes.send(up.cluster.parts["ray"].pids[0], signal.SIGKILL)
    until(lambda: up.cluster.parts["ray"].restarts == 1, 30, "ray was started again")
    assert up.call("status").returncode == 3
    until(lambda: all(part.state == "up" for part in up.cluster.parts.values()), RESTART_S, "the core answered again")
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


def test_down_lets_running_answers_finish_and_leaves_no_process(up: Up) -> None:
    mark = up.cluster.mark
    ask = {"model": "base", "max_tokens": 600, "ignore_eos": True, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": f"Bearer {up.cluster.key}"}
    with httpx.stream("POST", f"{up.cluster.addresses['openai']}/chat/completions", json=ask, headers=headers, timeout=60) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data:")
        down = subprocess.Popen([sys.executable, "-m", "consilium.cli.app", "down", "--state", str(up.folder.root)], stdout=subprocess.PIPE, text=True)
        last = [line for line in lines if line][-1]
    assert last == "data: [DONE]"
    said, _ = down.communicate(timeout=90)
    assert down.returncode == 0
    assert said.startswith("Stopped: ")
    assert processes.marked(mark) == ()
    assert up.call("status").returncode == 71
    assert up.call("down").returncode == 0
