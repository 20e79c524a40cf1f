"""Parts that are killed: whoever asks meanwhile gets a reason and a time, never a 404 and never silence; streams end with an event wherever somebody is left to write it.

`python -m tests.bench.recovery` measures the same, more often.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import grpc
import httpx
import psutil
import pytest
from tests.bench.chat_body import chat
from tests.bench.cluster import Ours

from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

BACK_S = 300.0
CALM = 10
"""So many good answers in a row: it is back."""
ANSWER_S = 120.0
"""Whoever waits longer for an answer, whatever it is, waits in vain: how long it took is printed, and tests/bench/recovery.py judges it."""
NOBODY_LISTENS = frozenset({"ConnectError", "ReadError", "RemoteProtocolError"})


@dataclass
class Seen:
    """What a caller saw from a kill until all was well again."""

    back_s: float = 0.0
    longest_s: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)
    waits: list[int] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        return set(self.failed)


@pytest.fixture
def http(cluster: Ours) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=cluster.url, timeout=ANSWER_S, headers={"Authorization": f"Bearer {cluster.key}"}
    ) as client:
        yield client


@pytest.fixture(autouse=True)
def well(http: httpx.Client) -> None:
    """Each test begins with a cluster that answers, also where the one before it has failed."""
    seen = Seen()
    until_good(http, time.monotonic(), seen, lambda _reply: "not yet")


def until_well(http: httpx.Client, begun: float) -> Seen:
    """Ask until answers are good and stay so. Every refusal must be an error object with a Retry-After."""
    seen = Seen()
    until_good(http, begun, seen, lambda reply: refusal(reply, seen))
    print(seen)
    return seen


def until_good(
    http: httpx.Client, begun: float, seen: Seen, refused: Callable[[httpx.Response], str]
) -> None:
    """Ask until so many answers in a row are good, and write down what was seen."""
    good = 0
    while good < CALM:
        assert time.monotonic() < begun + BACK_S, seen
        asked = time.monotonic()
        try:
            reply = http.post("/v1/chat/completions", json=chat(1))
        except httpx.TransportError as error:
            said = type(error).__name__
        else:
            said = "" if reply.status_code == 200 else refused(reply)
        now = time.monotonic()
        seen.longest_s = max(seen.longest_s, now - asked)
        if said:
            seen.failed[said] += 1
            good = 0
        else:
            seen.back_s = seen.back_s if good else now - begun
            good += 1
        time.sleep(0.1)


def refusal(reply: httpx.Response, seen: Seen) -> str:
    assert reply.status_code == 503, (reply.status_code, reply.text)
    seen.waits.append(int(reply.headers["retry-after"]))
    error = reply.json()["error"]
    assert error["message"]
    return str(error["code"])


def kill(victims: list[psutil.Process]) -> float:
    """Kill them and return when."""
    assert victims
    begun = time.monotonic()
    for victim in victims:
        victim.kill()
    return begun


def named(ours: Ours, name: str) -> list[psutil.Process]:
    return [found for found in ours.processes("") if found.name() == name]


def stream_through(http: httpx.Client, end: Callable[[], object]) -> list[str]:
    """Read a long stream, kill after its fifth event, and return its events."""
    seen: list[str] = []
    with http.stream("POST", "/v1/chat/completions", json=chat(6000, stream=True)) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line.startswith("data: "):
                seen.append(line[6:])
                if len(seen) == 5:
                    end()
    return seen


def test_haproxy_killed(cluster: Ours, http: httpx.Client) -> None:
    """Who holds the socket sees it break. Everybody else is answered again soon, and until then nobody listens."""
    begun = 0.0

    def end() -> None:
        nonlocal begun
        begun = kill(named(cluster, "haproxy"))

    with pytest.raises(httpx.TransportError):
        stream_through(http, end)
    seen = until_well(http, begun)
    assert seen.codes <= NOBODY_LISTENS


def test_gateway_replica_killed(cluster: Ours, http: httpx.Client) -> None:
    """What it had taken is cut, on a connection that is kept too; what comes later waits for the next one."""
    seen = until_well(http, kill(cluster.processes("ServeReplica:gateway")))
    assert seen.codes <= {"ReadError", "RemoteProtocolError", "upstream_down", "engine_starting"}
    assert seen.failed.total() < 5 + seen.back_s, "they did not wait: every one was refused at once"


def test_engine_core_killed_mid_stream(cluster: Ours, http: httpx.Client) -> None:
    begun = 0.0

    def end() -> None:
        nonlocal begun
        begun = kill(cluster.cores())

    events = stream_through(http, end)
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] in {"upstream_down", "engine_starting"}
    assert asyncio.run(refused_over_grpc(cluster)) == (grpc.StatusCode.UNAVAILABLE, True)
    seen = until_well(http, begun)
    assert seen.codes == {"engine_starting"}
    assert max(seen.waits) > 5, "the last start took longer than that"
    assert min(seen.waits) < max(seen.waits), "what has passed does not count"


async def refused_over_grpc(cluster: Ours) -> tuple[grpc.StatusCode, bool]:
    """Return the status of a call that cannot be answered now, and whether it says why and when again."""
    key = (("authorization", f"Bearer {cluster.key}"),)
    async with grpc.aio.insecure_channel(cluster.grpc) as channel:
        call = rpc.GenerationServiceStub(channel).Generate(
            pb.GenerateRequest(model="base", prompt="Hi"), metadata=key, timeout=ANSWER_S
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in call:
                pass
    told = dict(refused.value.trailing_metadata() or ())
    says = told.get("x-consilium-error") == "engine_starting" and float(told["retry-after"]) >= 1
    return refused.value.code(), says


def test_engine_replica_killed_mid_stream(cluster: Ours, http: httpx.Client) -> None:
    begun = 0.0

    def end() -> None:
        nonlocal begun
        begun = kill(cluster.processes("ServeReplica:executor-core"))

    events = stream_through(http, end)
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] in {"upstream_down", "engine_starting"}
    seen = until_well(http, begun)
    assert seen.codes == {"engine_starting"}


def test_gcs_killed(cluster: Ours, http: httpx.Client) -> None:
    """All of Ray is started again. The port is closed for a moment; then there is a reason, for most of the time until it is back."""
    seen = until_well(http, kill(named(cluster, "gcs_server")))
    assert seen.codes <= {*NOBODY_LISTENS, "engine_starting", "upstream_down"}
    assert seen.failed["engine_starting"] > seen.failed["ConnectError"]
