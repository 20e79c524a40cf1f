"""Comment lines in a silent stream: when they come, where they may stand, and that nobody stumbles over them."""

import asyncio

import httpx
import pytest
from tests.component.gateway.conftest import chat, events
from tests.waiting import until_true

from consilium.engine.backends.echo import EchoEngine
from consilium.engine.backends.openai import RemoteEngine, RemoteSettings
from consilium.engine.ports import Call
from consilium.gateway.asgi import Request
from consilium.gateway.keep_alive import COMMENT, KeptAlive
from consilium.gateway.sse_reader import Reader

TURNS = "/v1/chat/completions"
SLOW = chat("!slow two !slow four", stream=True)


async def slow(gateway, **limits):
    return await gateway(engines=[EchoEngine(delay_s=0.5)], **{"sse_keep_alive_s": 0.1, **limits})


async def test_a_silent_stream_says_that_it_is_alive_before_its_first_byte_and_later(gateway):
    bench = await slow(gateway)
    answer = await bench.client().post(TURNS, json=SLOW)
    before, _, after = answer.content.partition(b"data: ")
    assert before == COMMENT * before.count(COMMENT)
    assert before.count(COMMENT) >= 1
    assert after.count(COMMENT) >= 1
    without = answer.content.replace(COMMENT, b"")
    assert without.startswith(b"data: ")
    assert without.endswith(b"data: [DONE]\n\n")
    assert len(events(answer.text)) == without.count(b"data: {")


@pytest.mark.parametrize("every_s", [0, 30])
async def test_a_stream_that_is_not_silent_for_so_long_has_none(gateway, every_s):
    bench = await slow(gateway, sse_keep_alive_s=every_s)
    answer = await bench.client().post(TURNS, json=SLOW)
    assert COMMENT not in answer.content


async def test_whole_answers_have_none(gateway):
    bench = await slow(gateway)
    answer = await bench.client().post(TURNS, json=chat("!slow two"))
    assert answer.json()["choices"][0]["message"]["content"] == "!slow two"


async def test_the_openai_client_reads_past_them(gateway):
    bench = await slow(gateway)
    client = bench.openai()
    words = "!slow two"
    chunks = await client.chat.completions.create(**chat(words), stream=True)
    said = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
    assert "".join(said) == words
    parts = await client.completions.create(model="base", prompt=words, stream=True)
    assert "".join([part.choices[0].text async for part in parts if part.choices]) == words
    stream = await client.responses.create(model="auto", input=words, stream=True)
    kinds = [event.type async for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


async def test_our_own_reader_reads_past_them(gateway):
    bench = await slow(gateway)
    raw = (await bench.client().post(TURNS, json=SLOW)).content
    assert COMMENT in raw
    reader = Reader()
    found = [event for at in range(len(raw)) for event in reader.feed(raw[at : at + 1])]
    assert reader.done
    assert len(found) == raw.count(b"data: {")


async def test_another_cluster_takes_none_of_them_for_the_answer(gateway):
    bench = await slow(gateway)
    remote = RemoteEngine(
        RemoteSettings("far", f"{bench.url}/v1", "auto", key_env="FAR_KEY", timeout_s=20)
    )
    remote._client = httpx.AsyncClient(
        base_url=f"{bench.url}/v1/", headers={"authorization": f"Bearer {bench.key}"}, timeout=60
    )
    call = Call("r1", "chat", {**SLOW, "consilium": {"receipt": False}})
    frames = [frame async for frame in remote.stream(call)]
    await remote.stop()
    assert b"keep-alive" not in b"".join(frames)
    assert b"data: [DONE]" in frames[-1]


async def test_who_leaves_in_the_silence_leaves_nothing(gateway):
    bench = await slow(gateway)
    async with bench.client().stream("POST", TURNS, json=chat("!wait", stream=True)) as answer:
        assert await anext(answer.aiter_bytes()) == COMMENT
    await bench.until(lambda: not bench.engines["core"].running)
    assert bench.face.cast.gate.running("core") == 0


def recording(sent: list[bytes], wait: asyncio.Event | None = None) -> Request:
    async def send(message):
        sent.append(message.get("body", b""))
        if wait is not None and message["type"] == "http.response.body":
            await wait.wait()

    async def receive():
        await asyncio.Event().wait()

    return Request("POST", "/", b"/", "", {}, [], receive, send)


def body(raw: bytes, *, more: bool = True):
    return {"type": "http.response.body", "body": raw, "more_body": more}


START = {"type": "http.response.start", "status": 200}


async def test_a_comment_never_stands_in_the_middle_of_an_event():
    sent: list[bytes] = []
    async with KeptAlive(recording(sent), 0.02) as kept:
        await kept.request.send(START)
        await kept.request.send(body(b"data: {"))
        await asyncio.sleep(0.1)
        assert COMMENT not in sent
        await kept.request.send(body(b"}\r\n\r\n"))
        await until_true(lambda: COMMENT in sent)


async def test_nothing_is_said_before_the_head_after_the_end_and_to_who_does_not_read():
    sent: list[bytes] = []
    async with KeptAlive(recording(sent), 0.01) as kept:
        await asyncio.sleep(0.05)
        assert sent == []
        await kept.request.send(START)
        await kept.request.send(body(b"", more=False))
        await asyncio.sleep(0.05)
        assert sent == [b"", b""]
    stuck: list[bytes] = []
    async with KeptAlive(recording(stuck, asyncio.Event()), 0.01) as kept:
        await kept.request.send(START)
        writing = asyncio.ensure_future(kept.request.send(body(b"data: 1\n\n")))
        await asyncio.sleep(0.05)
        assert stuck == [b"", b"data: 1\n\n"]
        writing.cancel()


async def test_no_comment_comes_after_the_end_that_was_sent_in_the_same_moment():
    """The server would take it for a fault of ours."""
    sent: list[bytes] = []
    async with KeptAlive(recording(sent), 30) as kept:
        await kept.request.send(START)
        kept._last_s -= 60
        kept._look()
        await kept.request.send(body(b"", more=False))
        await asyncio.sleep(0.02)
    assert COMMENT not in sent
    async with KeptAlive(recording(sent), 30) as kept:
        await kept.request.send(START)
        kept._last_s -= 60
        kept._look()
        await kept.request.send(body(b"data: {"))
        await asyncio.sleep(0.02)
    assert COMMENT not in sent
