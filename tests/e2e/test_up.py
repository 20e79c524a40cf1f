"""`consilium up` as a person uses it: what it says, its commands, what it survives, a second one beside it, and its end, which is the last test of all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from tests.alike import alike
from tests.bench.cluster import Ours
from tests.command import consilium
from tests.e2e.conftest import with_rooms
from tests.interrupted import HEARING
from tests.waiting import until

from consilium.gateway.client import GenerationClient, Message
from consilium.supervisor import processes
from consilium.supervisor.gateway_link import in_flight
from consilium.supervisor.state_folder import Cluster, StateFolder
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

START_S = 400
RESTART_S = 300
SOON_S = 120
"""For what takes a second or a few where nothing else runs."""
LIMIT_BYTES = 6 * 2**30
STREAMS = 32
TOKENS = 100  # of each stream: few enough for the time that `down` gives them
PATIENCE_S = 400
EARLY, EARLY_TOKENS = 4, 250  # streams that have begun when the end begins, and tokens of each
SHARDED = tuple(
    word
    for setting in (
        "topology.kind=sharded",
        "topology.tensor_parallel=2",
        "engine.env.VLLM_CPU_OMP_THREADS_BIND=nobind",
    )
    for word in ("--set", setting)
)
NOWHERE = "tests.e2e.nowhere:ROOM"
SAY = ("chat", "Count to ten.", "--max-tokens", "12", "--temperature", "0")
DOWN = """
import sys
from consilium.cli import app, down
input("loaded\\n")
sys.exit(app.main(["down", "--state", sys.argv[1]]))
"""


@dataclass(frozen=True)
class Up:
    """A running cluster and what `up` said."""

    ours: Ours

    @property
    def folder(self) -> StateFolder:
        return StateFolder(self.ours.state)

    @property
    def said(self) -> str:
        return self.ours.said

    @property
    def cluster(self) -> Cluster:
        found = self.folder.read_cluster()
        assert found is not None
        return found

    def is_up(self) -> bool:
        return all(part.state == "up" for part in self.cluster.parts.values())

    def restarts(self) -> dict[str, int]:
        return {name: part.restarts for name, part in self.cluster.parts.items()}

    def call(self, *words: str, timeout_s: float = SOON_S) -> subprocess.CompletedProcess[str]:
        return consilium(*words, "--state", str(self.folder.root), timeout_s=timeout_s)


@pytest.fixture(scope="module")
def up(cluster: Ours) -> Up:
    """The cluster of the run, once all its parts are up: the file before this one kills some."""
    found = Up(cluster)
    until(found.is_up, RESTART_S, "all parts were up")
    return found


def test_up_says_where_everything_is_and_its_curl_line_works(up: Up) -> None:
    for name in ("openai", "grpc", "metrics"):
        assert up.cluster.addresses[name] in up.said
    curl = next(line for line in up.said.splitlines() if line.startswith("curl"))
    curl = curl.replace('"messages"', '"max_tokens": 8, "messages"')  # the tiny model knows no end
    done = subprocess.run(
        ["bash", "-c", curl], check=True, capture_output=True, text=True, timeout=SOON_S
    )
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
    found: dict[str, Any] = {}

    def is_weighed() -> bool:
        """Say whether `status` had the time to weigh the parts: on a busy machine it shows the rest."""
        done = up.call("status", "--output", "json")
        found.update(json.loads(done.stdout))
        assert done.returncode == 0, found
        return bool(found["pss_bytes"])

    until(is_weighed, SOON_S, "status weighed the parts", every_s=0.5)
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
    made = json.loads(
        up.call("keys", "create", "--name", "bob", "--expires", "1h", "--output", "json").stdout
    )
    ask = {"model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    url = f"{up.cluster.addresses['openai']}/chat/completions"
    assert (
        httpx.post(
            url, json=ask, headers={"Authorization": f"Bearer {made['key']}"}, timeout=SOON_S
        ).status_code
        == 200
    )
    assert made["key"].rpartition("_")[2] not in up.call("keys", "list").stdout
    guest = up.call("keys", "create", "--name", "eve", "--tenant", "acme", "--output", "json")
    theirs = {"Authorization": f"Bearer {json.loads(guest.stdout)['key']}"}
    salted = {**ask, "cache_salt": "of her own"}
    for body in (ask, salted):
        assert httpx.post(url, json=body, headers=theirs, timeout=SOON_S).status_code == 200
    assert up.call("keys", "revoke", made["id"]).returncode == 0
    assert up.call("keys", "revoke", "000000000000").returncode == 4


def test_logs_show_the_engine_too(up: Up) -> None:
    said = up.call("logs", "engine", "-n", "100000").stdout
    assert "executor_submitted" in said
    assert "vllm" in said.lower()
    assert up.call("logs", "redis", "-n", "1").stdout.strip()


def test_the_planner_reads_the_boot_log_of_our_own_engine_and_had_foretold_it(up: Up) -> None:
    log = up.call("logs", "engine", "-n", "100000").stdout
    words = [
        sys.executable,
        "-m",
        "consilium.cli.app",
        "plan",
        "calibrate",
        "-",
        "--output",
        "json",
    ]
    done = subprocess.run(
        words, input=log, check=False, capture_output=True, text=True, timeout=SOON_S
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measured"]["on_cpu"] is True
    assert found["measured"]["kv_gib"] == 1.0
    assert found["kv_tokens"] == found["forecast"]["kv_tokens"]


def test_the_metrics_page_has_the_gateway_ray_and_the_parts(up: Up) -> None:
    page = httpx.get(up.cluster.addresses["metrics"], timeout=SOON_S).text
    assert 'consilium_part_up{part="core"} 1' in page
    assert "consilium_gateway_requests_total" in page
    assert "\nray_" in page


def test_of_two_starts_at_once_one_comes_up_beside_the_first_cluster_and_ctrl_c_ends_it_alone(
    up: Up, tmp_path: Path
) -> None:
    """Ray, Serve and HAProxy of both clusters run at once; no port or socket is shared. The first one does not notice the end of the second.

    The second one is tensor parallel: its two ranks say what the one of the first says. And it has a room that never starts, which keeps it from nothing.
    """
    folder = StateFolder(tmp_path / "state")
    before = up.restarts()
    words = (
        *HEARING,
        "-m",
        "consilium.cli.app",
        "up",
        "--foreground",
        "--model",
        "tiny",
        *SHARDED,
        "--state",
        str(folder.root),
    )
    said = [tmp_path / f"{number}.out" for number in range(2)]
    starts = []
    for path in said:
        with path.open("wb") as out:
            starts.append(
                subprocess.Popen(
                    words, stdout=out, stderr=subprocess.STDOUT, env=with_rooms(NOWHERE)
                )
            )
    try:
        until(
            lambda: any(start.poll() is not None for start in starts),
            SOON_S,
            "one of two starts was refused",
        )
        (refused,) = (number for number, start in enumerate(starts) if start.poll() is not None)
        assert starts[refused].returncode == 70
        assert "running already" in said[refused].read_text()
        running, told = starts[1 - refused], said[1 - refused]
        until(
            lambda: running.poll() is not None or "Ctrl-C stops the cluster" in told.read_text(),
            START_S,
            "the second cluster came up",
        )
        assert running.poll() is None, told.read_text()
        assert alike(
            consilium(*SAY, "--state", str(folder.root)).stdout,
            up.call(*SAY).stdout,
        )
        assert "Up, but degraded," in told.read_text()
        assert "note: nowhere is " in told.read_text()
        status = consilium("status", "--output", "json", "--state", str(folder.root))
        assert status.returncode == 3
        found = json.loads(status.stdout)
        assert (found["phase"], found["healthy"]) == ("degraded", False)
        assert [(row["part"], row["vital"]) for row in found["down"]] == [("nowhere", False)]
        assert "No module named" in found["down"][0]["why"]
        mark = (folder.read_cluster() or pytest.fail("no cluster.json")).mark
        assert len(processes.marked(mark)) > 5
        running.send_signal(signal.SIGINT)
        assert running.wait(RESTART_S) == 0
        assert re.search(r"^Stopped: \d+ processes", told.read_text(), re.MULTILINE)
        assert processes.marked(mark) == ()
        assert consilium("status", "--state", str(folder.root)).returncode == 71
    finally:
        consilium("down", "--now", "--state", str(folder.root), timeout_s=RESTART_S)
        for start in starts:
            start.wait(SOON_S)
        shutil.rmtree(folder.ray_temp.parent, ignore_errors=True)
    assert up.restarts() == before
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


def test_a_killed_redis_comes_back_with_its_keys(up: Up) -> None:
    before = up.restarts()["redis"]
    processes.send(up.cluster.parts["redis"].pids[0], signal.SIGKILL)
    until(
        lambda: up.restarts()["redis"] > before and up.cluster.parts["redis"].state == "up",
        SOON_S,
        "redis came back",
    )
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


def test_a_killed_ray_takes_everything_on_it_along_and_all_comes_back(up: Up) -> None:
    before = up.restarts()["ray"]
    processes.send(up.cluster.parts["ray"].pids[0], signal.SIGKILL)
    until(lambda: up.call("status").returncode == 5, SOON_S, "status tells that it is down")
    until(
        lambda: up.restarts()["ray"] > before and up.is_up(), RESTART_S, "the core answered again"
    )
    assert up.call("chat", "Hello", "--max-tokens", "2").returncode == 0


async def told(http: httpx.AsyncClient, begun: asyncio.Event, tokens: int = TOKENS) -> list[str]:
    """The events of one streamed answer."""
    ask = {
        "model": "base",
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    seen: list[str] = []
    async with http.stream("POST", "/chat/completions", json=ask) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                seen.append(line[6:])
                begun.set()
    return seen


async def told_by_grpc(client: GenerationClient) -> tuple[int, bool]:
    """The tokens of one answer over gRPC, and whether its end came."""
    tokens, ended = 0, False
    async for piece in client.stream(
        [Message("user", "Hi")], model="base", max_tokens=TOKENS, extra={"ignore_eos": True}
    ):
        if piece.done:
            tokens, ended = dict(piece.usage)["completion_tokens"], True
    return tokens, ended


def is_answered(url: str) -> bool:
    """Say whether somebody answers there, whatever they say."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url, timeout=SOON_S).status_code > 0
    return False


async def code_of_a_call(channel: grpc.aio.Channel, key: str) -> grpc.StatusCode:
    """Return how a call ends that needs no engine."""
    try:
        await rpc.GenerationServiceStub(channel).ListModels(
            pb.ListModelsRequest(), timeout=SOON_S, metadata=(("authorization", key),)
        )
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def stopped_under_load(
    up: Up,
) -> tuple[list[list[str]], tuple[int, bool], asyncio.subprocess.Process, str]:
    """Say `down` while 32 streams and a gRPC call run, and try to begin others. Return what was streamed, and how `down` ended."""
    openai, target, key = (
        up.cluster.addresses["openai"],
        up.cluster.addresses["grpc"],
        f"Bearer {up.cluster.key}",
    )
    limits = httpx.Limits(max_connections=STREAMS + 1)
    down = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        DOWN,
        str(up.folder.root),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert down.stdin is not None
    assert down.stdout is not None
    await down.stdout.readline()
    async with (
        httpx.AsyncClient(
            base_url=openai, headers={"Authorization": key}, timeout=PATIENCE_S, limits=limits
        ) as http,
        GenerationClient(target, key=up.cluster.key, timeout_s=PATIENCE_S) as client,
        grpc.aio.insecure_channel(target) as late,
    ):
        begun = [asyncio.Event() for _ in range(STREAMS)]
        streams = [asyncio.create_task(told(http, event, EARLY_TOKENS)) for event in begun[:EARLY]]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(event.wait() for event in begun[:EARLY]))
        with up.ours.standing_still():  # what is asked now is live when the end begins
            streams += [asyncio.create_task(told(http, event)) for event in begun[EARLY:]]
            call = asyncio.create_task(told_by_grpc(client))
            await asyncio.to_thread(
                until,
                lambda: (
                    in_flight(up.folder.metrics) == sum(not stream.done() for stream in streams) + 1
                ),
                SOON_S,
                "all were taken in",
            )
            down.stdin.write(b"\n")
            await asyncio.to_thread(until, up.folder.closing.exists, SOON_S, "the end began")
            print(
                f"{sum(not stream.done() for stream in streams)} of {STREAMS} streams are live when the end begins"
            )
            await asyncio.to_thread(
                until,
                lambda: not is_answered(f"{openai}/models"),
                SOON_S,
                "nobody listens any more",
            )
            async with asyncio.timeout(SOON_S):
                while (code := await code_of_a_call(late, key)) is grpc.StatusCode.OK:  # noqa: ASYNC110  # it is asked
                    await asyncio.sleep(0.1)
            assert code is grpc.StatusCode.UNAVAILABLE
            ask = pb.GenerateRequest(model="base", prompt="x")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                [
                    _
                    async for _ in rpc.GenerationServiceStub(late).Generate(
                        ask, timeout=SOON_S, metadata=(("authorization", key),)
                    )
                ]
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            assert not any(stream.done() for stream in streams[EARLY:])
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*streams)
            over_grpc = await call
            said, _ = await down.communicate()
    return answers, over_grpc, down, said.decode()


def test_down_lets_32_running_answers_finish_takes_no_new_one_and_leaves_nothing(up: Up) -> None:
    mark = up.cluster.mark
    shared = processes.shared_memory(processes.marked(mark))
    assert shared
    assert list(up.folder.engine_sockets.iterdir()), (
        "vLLM leaves its sockets in /tmp where it is not told otherwise"
    )
    answers, over_grpc, down, said = asyncio.run(stopped_under_load(up))
    assert len(answers) == STREAMS
    for events in answers:
        assert events[-1] == "[DONE]"
        ends = [
            choice["finish_reason"]
            for event in events[:-1]
            for choice in json.loads(event)["choices"]
            if choice["finish_reason"]
        ]
        assert ends == ["length"]
    assert over_grpc == (TOKENS, True)
    assert down.returncode == 0
    assert said.startswith("Stopped: ")
    assert processes.marked(mark) == ()
    assert [path for path in shared if path.exists()] == []
    assert not up.folder.ray_temp.parent.exists()
    assert up.folder.ray_logs.is_relative_to(up.folder.root)
    assert up.call("status").returncode == 71
    assert up.call("down").returncode == 0
