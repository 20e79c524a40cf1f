"""What a cluster must survive: gone clients, slow readers, garbage, overload, a lost Redis. Killed processes are in test_kills.py.

Each test leaves the cluster answering, and says so at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from tests.bench.chat_body import chat
from tests.bench.cluster import Ours
from tests.e2e.conftest import PLACES
from tests.waiting import until, until_true

from consilium.gateway.config import Gateway
from consilium.gateway.shares import QUEUE_SHARE
from consilium.supervisor.gateway_link import in_flight
from consilium.supervisor.state_folder import StateFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

BACK_S = 240.0
LIMIT_S = 120.0
LONG = 6000
"""Tokens of an answer that its caller does not wait for."""
LIMIT = int(
    PLACES * Gateway().max_in_flight_factor * QUEUE_SHARE
)  # turns of one key that the gateway lets in
OVER, STORM, STORM_EVERY_S = 40, 160, 0.015
LET_IN = STORM // 10 + 1
RUNNING, MADE = "vllm:num_requests_running", "vllm:generation_tokens_total"


def client(ours: Ours, timeout_s: float = 240) -> httpx.Client:
    return httpx.Client(
        base_url=ours.url, timeout=timeout_s, headers={"Authorization": f"Bearer {ours.key}"}
    )


def wait_until_answers(ours: Ours, seconds: float = BACK_S) -> float:
    """Wait for an answer and return the seconds it took."""
    begin = time.monotonic()
    with client(ours, 60) as http:
        while time.monotonic() < begin + seconds:
            with contextlib.suppress(httpx.HTTPError):
                if http.post("/v1/chat/completions", json=chat(1)).status_code == 200:
                    return time.monotonic() - begin
            time.sleep(0.2)
    raise AssertionError(f"no answer after {seconds} s")


@pytest.fixture(autouse=True)
def answering(cluster: Ours) -> Iterator[None]:
    yield
    wait_until_answers(cluster)


def events(reply: httpx.Response) -> Iterator[str]:
    for line in reply.iter_lines():
        if line.startswith("data: "):
            yield line[6:]


def test_client_gone_frees_its_place(cluster: Ours) -> None:
    with client(cluster) as http:
        before = figures(cluster, http, MADE)
        with http.stream("POST", "/v1/chat/completions", json=chat(LONG, stream=True)) as reply:
            for number, _ in enumerate(events(reply)):
                if number == 5:
                    break

        def is_free() -> bool:
            (running,) = figures(cluster, http, RUNNING)
            inflight = figures(cluster, http, "consilium_gateway_inflight_requests")
            assert 'executor="core"' in running[0]
            assert 'replica="0"' in running[0]
            return running[1] == 0 and sum(value for _, value in inflight) == 0

        spent = until(is_free, LIMIT_S, "its place was free", every_s=0.1)
        made = sum(value for _, value in figures(cluster, http, MADE)) - sum(
            value for _, value in before
        )
        print(f"its place was free after {spent:.2f} s, when {made:.0f} of {LONG} tokens were made")
        assert made < LONG


def figures(ours: Ours, http: httpx.Client, name: str) -> list[tuple[str, float]]:
    """Return the series of a figure on the page of the cluster."""
    address = json.loads((ours.state / "cluster.json").read_text())["addresses"]["metrics"]
    lines = [line.rpartition(" ") for line in http.get(address).text.splitlines()]
    return [(series, float(value)) for series, _, value in lines if series.split("{")[0] == name]


@pytest.mark.parametrize("stream", [False, True])
async def test_client_gone_before_its_first_token_frees_its_place_and_keeps_no_proxy_busy(
    cluster: Ours, stream: bool
) -> None:
    """The body goes in a packet of its own, as from most clients; HAProxy with splicing would not see the client go, and would spin."""
    metrics = StateFolder(cluster.state).metrics
    proxies = cluster.processes("haproxy")
    assert proxies
    headers = {"Authorization": f"Bearer {cluster.key}"}
    async with httpx.AsyncClient(base_url=cluster.url, timeout=240, headers=headers) as http:
        await until_true(lambda: not in_flight(metrics), LIMIT_S, "nobody else asks")
        with cluster.standing_still():
            body = chat(50, stream=stream)
            asking = asyncio.create_task(http.post("/v1/chat/completions", json=body))
            await until_true(lambda: in_flight(metrics), LIMIT_S, "it was taken in")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            why = "the gateway does not know that its caller is gone"
            spent = await asyncio.to_thread(until, lambda: not in_flight(metrics), LIMIT_S, why)
            print(f"its place was free after {spent:.2f} s")
            before = busy_s(proxies)
            await asyncio.sleep(2)
            assert busy_s(proxies) - before < 1, "a proxy that spins is busy all the time"


def busy_s(proxies: list[psutil.Process]) -> float:
    """Return the seconds of a core that these have used, all of them together."""
    return sum(sum(proxy.cpu_times()[:2]) for proxy in proxies)


def test_garbage_is_refused_with_words(cluster: Ours) -> None:
    rng = random.Random(5)
    routes = (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
    )
    bodies: list[bytes] = [
        b"",
        rng.randbytes(10_000),
        b"[" * 5000,
        b'{"a":' * 200 + b"1" + b"}" * 200,
        b'{"model": 5}',
        b'{"model": ["x"], "messages": {}}',
        b'{"model":"base","messages":[{"role":"user","content":"x"}],"consilium":5}',
        b'{"model":"base","consilium":{"surprise":1}}',
        b'{"model":"no/such","messages":[]}',
        b'{"model":"base","messages":"x","stream":"yes"}',
        b'{"model":"base","messages":[{"role":"user","content":"x"}],"n":1000}',
        b"null",
        b'"text"',
        b'{"model":"base"' + b" " * (9 * 1024 * 1024) + b"}",
    ]
    with client(cluster) as http:
        for route in routes:
            for body in bodies:
                reply = http.post(route, content=body, headers={"Content-Type": "application/json"})
                assert 400 <= reply.status_code < 500, (
                    route,
                    body[:60],
                    reply.status_code,
                    reply.text[:300],
                )
                assert reply.json()["error"]["message"], (route, body[:60])
                assert "Traceback" not in reply.text
        assert http.get("/v1/chat/completions").status_code == 405
        assert http.post("/v1/nothing", json={}).status_code == 404
        assert (
            http.post(
                "/v1/chat/completions", json=chat(1), headers={"Authorization": "Bearer csl_x_y"}
            ).status_code
            == 401
        )


def test_unmodified_openai_client(cluster: Ours) -> None:
    import openai

    with openai.OpenAI(
        base_url=f"{cluster.url}/v1", api_key=cluster.key, timeout=60, max_retries=0
    ) as sdk:
        assert "base" in {model.id for model in sdk.models.list()}
        whole = sdk.chat.completions.create(
            model="base", messages=[{"role": "user", "content": "Hi"}], max_tokens=4
        )
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 4
        pieces = list(
            sdk.chat.completions.create(
                model="base",
                messages=[{"role": "user", "content": "Hi"}],
                max_tokens=4,
                stream=True,
            )
        )
        assert pieces[-1].model_extra is not None
        assert "consilium" in pieces[-1].model_extra
        made = sdk.responses.create(model="base", input="Hi", max_output_tokens=8)
        again = sdk.responses.create(
            model="base", input="And?", max_output_tokens=8, previous_response_id=made.id
        )
        assert again.previous_response_id == made.id
        assert sdk.responses.retrieve(made.id).id == made.id
        assert len(sdk.embeddings.create(model="auto", input=["a", "b"]).data) == 2
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(
                model="role/nobody", messages=[{"role": "user", "content": "Hi"}]
            )


def test_slow_reader_holds_nobody_up(cluster: Ours) -> None:
    parts = urlsplit(cluster.url)
    body = json.dumps(chat(2000, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {cluster.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=LIMIT_S) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.sendall(head.encode() + body)
        slow.recv(100)
        with client(cluster, LIMIT_S) as http:
            for _ in range(3):
                assert http.post("/v1/chat/completions", json=chat(8)).status_code == 200


def test_overload_is_refused_at_once_and_goodput_holds(cluster: Ours) -> None:
    """First the engine stands still, and exactly what it has room for is let in; then an open loop asks on while it works, until places that came free were given."""

    def answered(tasks: list[asyncio.Task[httpx.Response]]) -> int:
        return sum(task.done() and task.result().status_code == 200 for task in tasks)

    async def storm() -> tuple[list[httpx.Response], list[httpx.Response]]:
        limits = httpx.Limits(max_connections=1000)
        async with httpx.AsyncClient(
            base_url=cluster.url,
            timeout=400,
            limits=limits,
            headers={"Authorization": f"Bearer {cluster.key}"},
        ) as http:

            def ask() -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(http.post("/v1/chat/completions", json=chat(6)))

            with cluster.standing_still():
                first = [ask() for _ in range(LIMIT + OVER)]
                async with asyncio.timeout(LIMIT_S):
                    while sum(task.done() for task in first) < OVER:  # noqa: ASYNC110  # those who wait must not be looked at
                        await asyncio.sleep(0.02)
            then: list[asyncio.Task[httpx.Response]] = []
            async with asyncio.timeout(LIMIT_S):
                while len(then) < STORM or answered(then) < LET_IN:
                    then.append(ask())
                    await asyncio.sleep(STORM_EVERY_S)
            return await asyncio.gather(*first), await asyncio.gather(*then)

    first, then = asyncio.run(storm())
    assert sorted(reply.status_code for reply in first) == [200] * LIMIT + [429] * OVER
    statuses = [reply.status_code for reply in then]
    print(f"while it worked {statuses.count(200)} of {len(statuses)} more were answered")
    assert set(statuses) <= {200, 429}
    assert statuses.count(200) >= LET_IN
    assert all(
        int(reply.headers["retry-after"]) >= 1
        for reply in [*first, *then]
        if reply.status_code == 429
    )


def test_redis_down(cluster: Ours) -> None:
    known = json.loads((cluster.state / "cluster.json").read_text())
    with client(cluster) as http:
        assert http.post("/v1/chat/completions", json=chat(1)).status_code == 200
        redis = psutil.Process(known["parts"]["redis"]["pids"][0]["pid"])
        redis.suspend()  # a key without limits is asked for once a second

        def is_told() -> bool:
            reply = http.post("/v1/chat/completions", json=chat(1))
            assert reply.status_code == 200, reply.text
            notes = reply.json()["consilium"]["receipt"].get("notes", [])
            return any("redis" in note.lower() for note in notes)

        try:
            until(is_told, LIMIT_S, "the receipt tells of it", every_s=0.1)
            stranger = http.post(
                "/v1/chat/completions",
                json=chat(1),
                headers={
                    "Authorization": "Bearer csl_0123456789abcdef_0123456789abcdef0123456789abcdef"
                },
            )
            assert stranger.status_code in {401, 503}
            if stranger.status_code == 503:
                assert "retry-after" in stranger.headers
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):  # ended because it was silent
                redis.resume()
