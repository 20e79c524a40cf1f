"""Many at once over HTTP: places, quotas, clients that go, slow readers, drain."""

import asyncio
import contextlib
import json
import socket
import time

import httpx
import openai
import pytest

from consilium.engine.backends.echo import EchoEngine
from consilium.gateway import turn

from .conftest import HeldEngine, chat, events


async def test_more_than_the_places_get_429_with_retry_after(gateway):
    bench = await gateway(places=2)
    client = bench.client()
    held = [
        asyncio.create_task(client.post("/v1/chat/completions", json=chat("!wait")))
        for _ in range(2)
    ]
    await bench.until(lambda: len(bench.engines["core"].running) == 2)
    refused = await client.post("/v1/chat/completions", json=chat())
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    with pytest.raises(openai.RateLimitError):
        await bench.openai().chat.completions.create(**chat())
    for task in held:
        task.cancel()
    await bench.until(lambda: not bench.engines["core"].running)
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)
    assert (await client.post("/v1/chat/completions", json=chat())).status_code == 200


async def test_overload_of_twice_the_capacity_keeps_the_goodput(gateway):
    """Eight come for four places, again and again: each time all places work, however fast this machine is. The open loop is in tests/e2e/test_faults.py."""
    engine = HeldEngine()
    bench = await gateway(engines=[engine], places=4)
    gate = bench.face.cast.gate
    client = bench.client(limits=httpx.Limits(max_connections=500))
    refused = []
    for _ in range(12):
        engine.go_on.clear()
        asked = [
            asyncio.create_task(client.post("/v1/chat/completions", json=chat("!slow")))
            for _ in range(8)
        ]
        await bench.until(
            lambda asked=asked: (
                sum(one.done() for one in asked) + gate.running("core") + gate.waiting("core") == 8
            )
        )
        engine.go_on.set()
        answers = await asyncio.gather(*asked)
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 4
        refused += [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


async def test_quotas_of_requests_and_tokens(gateway):
    bench = await gateway()
    key = await bench.new_key(rpm=3)
    client = bench.client(key)
    answers = [await client.post("/v1/chat/completions", json=chat()) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers[:3]] == [
        "2",
        "1",
        "0",
    ]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
    assert (answers[3].json()["error"]["code"], int(answers[3].headers["retry-after"]) >= 1) == (
        "rate_limited",
        True,
    )

    spent = bench.client(await bench.new_key(tpm=600))
    first = await spent.post("/v1/chat/completions", json=chat(max_tokens=400))
    left = int(first.headers["x-ratelimit-remaining-tokens"])
    assert left <= 200
    await turn.finish_background()
    second = await spent.post(
        "/v1/chat/completions", json=chat(max_tokens=400)
    )  # the estimate was far too high, and has been settled
    assert second.status_code == 200


async def test_leaving_just_before_the_end_is_paid_for(gateway):
    bench = await gateway()
    used: list[tuple[int, int]] = []

    async def note(_key: str, held: int, spent: int) -> None:
        used.append((held, spent))

    bench.face.authority.settle = note
    client = bench.client(await bench.new_key(tpm=10_000))
    text = "word " * 400 + "!wait"
    async with client.stream(
        "POST", "/v1/chat/completions", json=chat(text, stream=True, max_tokens=1)
    ) as answer:
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data: ")
            if seen >= 300:
                break
    await bench.until(lambda: bool(used))
    assert used[0][1] >= 300


async def test_what_was_reserved_comes_back_when_the_turn_does_not_begin(gateway):
    bench = await gateway()
    client = bench.client(await bench.new_key(tpm=1000))
    for _ in range(5):
        lost = await client.post("/v1/chat/completions", json=chat(model="none", max_tokens=900))
        assert lost.status_code == 404
        await turn.finish_background()
    assert (await client.post("/v1/chat/completions", json=chat(max_tokens=900))).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_stops_the_engine(gateway, stream):
    bench = await gateway()
    engine = bench.engines["core"]
    text = "one two !wait" if stream else "!wait"
    asking = asyncio.create_task(
        bench.client().post("/v1/chat/completions", json=chat(text, stream=stream))
    )
    await bench.until(lambda: bool(engine.running))
    await asyncio.sleep(0.05)
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await bench.until(lambda: not engine.running)
    assert engine.aborted
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)


async def test_a_slow_reader_holds_up_nobody_else(gateway):
    bench = await gateway(engines=[EchoEngine(context=2_000_000)])
    text = " ".join(["word"] * 60_000)
    body = json.dumps(chat(text, stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {bench.key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    line = socket.create_connection(("127.0.0.1", bench.port))
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.to_thread(line.sendall, head + body)
    try:
        await bench.until(lambda: bool(bench.engines["core"].running))
        await asyncio.sleep(0.3)
        assert bench.engines["core"].running, (
            "the answer was taken from the engine faster than it was read"
        )
        assert (await bench.client().post("/v1/chat/completions", json=chat())).status_code == 200
        assert bench.engines["core"].running, "the slow one has not been read to its end"
    finally:
        line.close()
    await bench.until(lambda: not bench.engines["core"].running)


async def test_a_stopping_server_finishes_32_live_streams(gateway):
    engine = HeldEngine()
    bench = await gateway(engines=[engine])
    text = " ".join(["!slow"] * 12)
    client = bench.client(limits=httpx.Limits(max_connections=64))
    live = [
        asyncio.create_task(client.post("/v1/chat/completions", json=chat(text, stream=True)))
        for _ in range(32)
    ]
    await bench.until(lambda: len(bench.engines["core"].running) == 32)
    bench.http.draining = True
    bench.server.should_exit = True
    engine.go_on.set()
    answers = await asyncio.gather(*live)
    assert [answer.status_code for answer in answers] == [200] * 32
    for answer in answers:
        said = "".join(
            event["choices"][0]["delta"].get("content", "")
            for event in events(answer.text)
            if event["choices"]
        )
        assert said == text
        assert answer.text.endswith("data: [DONE]\n\n")


async def test_one_key_that_floods_leaves_the_others_their_share(gateway):
    engine = HeldEngine()
    bench = await gateway(engines=[engine], places=32)
    gate = bench.face.cast.gate
    gate.set_limit("core", 32, 16)
    flood, other = bench.client(), bench.client(await bench.new_key(tenant="other"))
    hundred = [
        asyncio.create_task(
            flood.post("/v1/chat/completions", json=chat("!slow " + "x " * 40, stream=True))
        )
        for _ in range(100)
    ]
    await bench.until(lambda: gate.running("core") + gate.waiting("core") >= 24)
    assert (gate.running("core"), gate.waiting("core")) == (15, 9)
    answer = await other.post("/v1/chat/completions", json=chat("hello"))
    assert answer.status_code == 200
    assert gate.waiting("core"), "the other key was answered before the flood was over"
    engine.go_on.set()
    answers = await asyncio.gather(*hundred)
    assert {one.status_code for one in answers} == {200, 429}
    notes = [
        event["consilium"]["receipt"].get("notes", ())
        for one in answers
        if one.status_code == 200
        for event in events(one.text)
        if "consilium" in event
    ]
    assert any("waited" in note for told in notes for note in told)
    assert (gate.running("core"), gate.waiting("core")) == (0, 0)


async def test_100_requests_at_once_use_no_more_tokens_than_the_key_has(gateway):
    bench = await gateway(engines=[EchoEngine(delay_s=0.002)])
    client = bench.client(await bench.new_key(tpm=500))
    began = time.monotonic()
    words = " ".join(["a"] * 30)
    answers = await asyncio.gather(
        *(client.post("/v1/chat/completions", json=chat(words, max_tokens=20)) for _ in range(100))
    )
    took_s = time.monotonic() - began
    good = [answer.json()["usage"]["total_tokens"] for answer in answers if answer.is_success]
    assert good
    assert {answer.status_code for answer in answers} == {200, 429}
    assert sum(good) <= 500 + took_s * 500 / 60


async def test_burst_says_how_many_may_come_at_once(gateway):
    bench = await gateway()
    client = bench.client(await bench.new_key(rpm=30, burst=2))
    answers = [await client.post("/v1/chat/completions", json=chat()) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "30"
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "1"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 2
