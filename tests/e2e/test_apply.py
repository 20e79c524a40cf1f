"""`consilium apply` on a real cluster: roles come and go while 32 answers stream; what needs a restart is refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from tests.bench.cluster import Ours
from tests.command import consilium
from tests.e2e.conftest import EXTRA

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STREAMS = 32
TOKENS = 120
JUDGE = ("--set", "roles.judge.frame=You weigh.")


def apply(ours: Ours, *words: str) -> subprocess.CompletedProcess[str]:
    state = ("--state", str(ours.state))
    return consilium("apply", *state, "--model", "tiny", *EXTRA, *words, timeout_s=180)


def doctor(ours: Ours) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code and id -> finding."""
    words = ("--state", str(ours.state), "--model", "tiny", "--output", "json")
    done = consilium("doctor", *words, timeout_s=180)
    return done.returncode, {one["id"]: one for one in json.loads(done.stdout)["findings"]}


@pytest.fixture(autouse=True)
def as_it_was(cluster: Ours) -> Iterator[None]:
    yield
    done = apply(cluster, "--yes")
    assert done.returncode == 0, done.stderr


def client(ours: Ours) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {ours.key}"}
    return httpx.AsyncClient(base_url=ours.url, timeout=120, headers=headers)


def chat(model: str, tokens: int, **more: object) -> dict[str, object]:
    body = {"model": model, "messages": [{"role": "user", "content": "Go on."}]}
    return {**body, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, **more}


async def streams(
    http: httpx.AsyncClient, begun: asyncio.Event, applied: asyncio.Event
) -> list[list[str]]:
    """Stream one answer after the other until the role is there; return the lines of each."""
    found = []
    body = chat("role/sage", TOKENS, stream=True)
    while not applied.is_set():
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            lines = []
            async for line in answer.aiter_lines():
                lines += [line] if line else []
                begun.set()
            found.append(lines)
    return found


async def test_a_role_comes_while_answers_stream(cluster: Ours) -> None:
    async with client(cluster) as http:
        applied, begun = asyncio.Event(), [asyncio.Event() for _ in range(STREAMS)]
        running = [asyncio.create_task(streams(http, one, applied)) for one in begun]
        await asyncio.gather(*(one.wait() for one in begun))
        done = await asyncio.to_thread(apply, cluster, *JUDGE, "--yes", "--output", "json")
        answer = await http.post("/v1/chat/completions", json=chat("role/judge", 1))
        applied.set()
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert [row["key"] for row in told["changes"]] == ["roles.judge"]
        assert answer.status_code == 200
        answers = [lines for found in await asyncio.gather(*running) for lines in found]
        print(f"taken over after {told['took_s']} s, while {len(answers)} answers streamed")
        assert len(answers) >= STREAMS
        for lines in answers:
            assert lines[-1] == "data: [DONE]"
            assert not [line for line in lines if '"error"' in line]


def test_what_needs_a_restart_is_refused(cluster: Ours) -> None:
    done = apply(cluster, "--yes", "--set", "engine.max_num_seqs=8")
    assert done.returncode == 1
    assert "engine.max_num_seqs cannot change while the cluster runs" in done.stderr
    nothing = apply(cluster, "--yes")
    assert "Nothing differs" in nothing.stdout


async def test_from_elsewhere_and_a_broken_file(cluster: Ours) -> None:
    """PUT by the gateway's own page; then the file is broken, and every answer stays what it was."""
    words = ("--endpoint", f"{cluster.url}/v1", "--key", cluster.key)
    done = apply(cluster, *words, *JUDGE, "--yes")
    assert done.returncode == 0, done.stderr
    file = cluster.state / "config.json"
    good = file.read_text()
    async with client(cluster) as http:
        file.write_text("{")
        try:
            refused = ""
            async with asyncio.timeout(120):
                while not refused:
                    page = (await http.get("/v1/config")).json()
                    refused = page["replicas"][0]["refused"]
                    await asyncio.sleep(0.1)
            assert "not JSON" in refused
            code, told = await asyncio.to_thread(doctor, cluster)
            assert (code, told["config_taken"]["level"]) == (3, "failure")
            assert told["parts"]["level"] == "ok"
            status = await asyncio.to_thread(consilium, "status", "--state", str(cluster.state))
            assert status.returncode == 0, status.stdout
            assert "the last good one is kept: " in status.stdout
            answer = await http.post("/v1/chat/completions", json=chat("role/judge", 1))
            assert answer.status_code == 200
        finally:
            file.write_text(good)
    await until_well(cluster)


async def until_well(ours: Ours, limit_s: float = 240) -> None:
    """Wait until doctor finds nothing wrong."""
    async with asyncio.timeout(limit_s):
        while (await asyncio.to_thread(doctor, ours))[0]:  # noqa: ASYNC110  it is asked
            await asyncio.sleep(0.1)
