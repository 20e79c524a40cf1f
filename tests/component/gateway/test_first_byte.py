"""Between acceptance and the first byte of a stream: headers are out, a fallback may still step in, and an error is an event."""

import asyncio
import json
from dataclasses import replace

import grpc
import pytest
from tests.component.gateway.conftest import chat, events
from tests.component.gateway.greeter import TOKEN
from tests.waiting import LIMIT_S

from consilium.engine.backends.echo import EchoEngine
from consilium.gateway.client import TurnClient
from consilium.gateway.config import Role
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

ROLES = {"sage": Role(frame="x", fallback="spare")}
TURNS = "/v1/chat/completions"


def two(**of_the_spare) -> list[EchoEngine]:
    return [Doomed(), EchoEngine("spare", model="small", **of_the_spare)]


class Doomed(EchoEngine):
    """Accepts a stream, and ends before its first word; a whole answer never comes."""

    async def stream(self, call):
        async for frame in super().stream(call):
            if call.body.get("stream"):
                yield frame
            raise ConsiliumError("upstream_down", name="core", retry_after_s=1.0)


async def receipt_of(bench, answer) -> dict:
    name = answer.headers["x-consilium-receipt"]
    await bench.eventually(lambda: _is_kept(bench, name))
    return await bench.stores.receipts.get(name)


async def _is_kept(bench, name):
    return await bench.stores.receipts.get(name) is not None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (TURNS, chat("!wait", stream=True)),
        ("/v1/completions", {"model": "auto", "prompt": "!wait", "stream": True}),
        ("/v1/responses", {"model": "auto", "input": "!wait", "stream": True}),
    ],
)
async def test_headers_come_when_the_call_is_accepted(gateway, path, body):
    bench = await gateway()
    async with bench.client().stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-consilium-receipt"]
        assert bench.face.cast.gate.running("core") == 1
    await bench.until(lambda: not bench.engines["core"].running)
    assert bench.face.cast.gate.running("core") == 0
    assert (await receipt_of(bench, answer))["status"] == 499


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (chat("w " * 5000, stream=True), 400),
        (chat("!fail", stream=True), 500),
        (chat(model="role/none", stream=True), 404),
    ],
)
async def test_until_then_an_error_has_its_status(gateway, body, status):
    bench = await gateway()
    answer = await bench.client().post(TURNS, json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_a_full_gate_is_a_429_for_streams_too(gateway):
    bench = await gateway(places=1)
    bench.face.cast.gate.enter("core")
    answer = await bench.client().post(TURNS, json=chat(stream=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"]


async def test_the_fallback_steps_in_until_the_first_byte(gateway):
    bench = await gateway(engines=two(), roles=ROLES)
    answer = await bench.client().post(TURNS, json=chat(model="role/sage", stream=True))
    assert answer.status_code == 200
    said = "".join(
        event["choices"][0]["delta"].get("content", "")
        for event in events(answer.text)
        if event["choices"]
    )
    assert said == "one two three"
    receipt = events(answer.text)[-1]["consilium"]["receipt"]
    assert answer.headers["x-consilium-receipt"] == receipt["id"]
    assert (receipt["executor"], receipt["replica"]) == ("spare", "spare#0")
    assert (receipt["fallback_from"], receipt["fallback_why"]) == ("core", "upstream_down")
    assert len(receipt["attempts"]) == 1
    gate = bench.face.cast.gate
    assert (gate.running("core"), gate.running("spare")) == (0, 0)


async def test_who_has_failed_is_not_shown_as_answering(gateway):
    """Whoever drains waits until nobody answers any more, by this figure."""
    bench = await gateway(engines=two(), roles=ROLES)
    cast, shown = bench.face.cast, {}
    true = cast.meter.inflight

    def recorded(executor):
        shown[executor] = cast.gate.running(executor)
        true(executor)

    cast.meter.inflight = recorded
    answer = await bench.client().post(TURNS, json=chat(model="role/sage", stream=True))
    await receipt_of(bench, answer)
    assert shown == {"core": 0, "spare": 0}


async def test_without_a_fallback_the_error_is_an_event_of_our_shape(gateway):
    bench = await gateway(engines=two())
    answer = await bench.client().post(TURNS, json=chat(stream=True))
    assert answer.status_code == 200
    (event,) = events(answer.text)
    assert event["error"]["code"] == "upstream_down"
    assert answer.text.endswith("data: [DONE]\n\n")
    receipt = await receipt_of(bench, answer)
    assert (receipt["status"], receipt["notes"][-1]) == (503, "ended by: upstream_down")
    assert bench.face.cast.gate.running("core") == 0


async def test_a_spare_that_refuses_says_why_in_an_event(gateway):
    bench = await gateway(engines=two(context=2), roles=ROLES)
    answer = await bench.client().post(TURNS, json=chat("w " * 9, model="role/sage", stream=True))
    (event,) = events(answer.text)
    assert event["error"]["code"] == "prompt_too_long"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert (await receipt_of(bench, answer))["executor"] == "spare"
    assert bench.face.cast.gate.running("spare") == 0


async def test_a_spare_that_is_full_is_an_event_and_leaves_no_place_taken(gateway):
    bench = await gateway(engines=two(), roles=ROLES)
    gate = bench.face.cast.gate
    gate.set_limit("spare", 1)
    gate.enter("spare")
    answer = await bench.client().post(TURNS, json=chat(model="role/sage", stream=True))
    assert [event["error"]["code"] for event in events(answer.text)] == ["queue_full"]
    assert (gate.running("core"), gate.running("spare")) == (0, 1)


async def test_a_deadline_before_the_first_byte_is_an_event(gateway):
    bench = await gateway()
    answer = await bench.client().post(
        TURNS, json=chat("!wait", stream=True), headers={"x-consilium-timeout": "0.2"}
    )
    assert [event["error"]["code"] for event in events(answer.text)] == ["deadline"]
    await bench.until(lambda: not bench.engines["core"].running)


async def test_who_leaves_before_the_first_byte_pays_for_the_prompt_only(gateway):
    bench = await gateway()
    key = await bench.new_key(tpm=100_000)
    async with bench.client(key).stream("POST", TURNS, json=chat("!wait", stream=True)) as answer:
        assert answer.status_code == 200
    await receipt_of(bench, answer)
    left = await bench.client(key).post(TURNS, json=chat("hi", max_tokens=1))
    assert int(left.headers["x-ratelimit-remaining-tokens"]) > 99_000


async def test_grpc_has_its_initial_metadata_at_acceptance(gateway):
    bench = await gateway()
    request = pb.GenerateRequest(prompt="!wait")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.grpc.port}") as channel:
        call = rpc.GenerationServiceStub(channel).Generate(
            request, metadata=(("authorization", f"Bearer {bench.key}"),), timeout=LIMIT_S
        )
        found = dict(await call.initial_metadata())
        assert found["x-consilium-receipt"]
        first = asyncio.ensure_future(call.read())
        await asyncio.wait({first}, timeout=0.2)
        assert not first.done()
        call.cancel()
    await bench.until(lambda: not bench.engines["core"].running)


async def test_grpc_names_the_executor_that_answers(gateway):
    bench = await gateway(engines=two(), roles=ROLES)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.grpc.port}") as channel:
        call = rpc.GenerationServiceStub(channel).Generate(
            pb.GenerateRequest(prompt="one", model="role/sage"),
            metadata=(("authorization", f"Bearer {bench.key}"),),
        )
        messages = [message async for message in call]
    assert messages[0].metadata.executor == "spare"
    assert messages[-1].final.receipt.executor == "spare"
    assert "".join(message.text for message in messages) == "x one"  # with the role's frame


async def test_grpc_keeps_the_status_of_an_error_before_the_first_byte(gateway):
    bench = await gateway(engines=two())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.grpc.port}") as channel:
        call = rpc.GenerationServiceStub(channel).Generate(
            pb.GenerateRequest(prompt="one"), metadata=(("authorization", f"Bearer {bench.key}"),)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["x-consilium-error"] == "upstream_down"


async def test_a_room_hears_the_error_and_not_a_stream_with_an_error_in_it(gateway):
    bench = await gateway(engines=two())
    body = json.dumps(chat(stream=True)).encode()
    with pytest.raises(ConsiliumError) as caught:
        await TurnClient(bench.channel(token=TOKEN)).play("chat", body)
    assert caught.value.code == "upstream_down"
    spare = await gateway(engines=two(), roles=ROLES)
    body = json.dumps(chat(model="role/sage", stream=True)).encode()
    played = await TurnClient(spare.channel(token=TOKEN)).play("chat", body)
    assert played.began.executor == "spare"


async def test_whole_answers_are_as_they_were(gateway):
    bench = await gateway(engines=two(), roles=ROLES)
    answer = await bench.client().post(TURNS, json=chat())
    assert answer.status_code == 503
    instead = await bench.client().post(TURNS, json=chat(model="role/sage"))
    assert instead.json()["consilium"]["receipt"]["executor"] == "spare"


async def test_an_executor_is_asked_once_a_turn(gateway):
    first, spare = two()
    first._info = replace(first.info(), fallback="spare")
    second = Doomed("spare", model="small")
    bench = await gateway(engines=[first, second])
    answer = await bench.client().post(TURNS, json=chat(stream=True))
    assert [event["error"]["code"] for event in events(answer.text)] == ["upstream_down"]
    tried = (await receipt_of(bench, answer))["attempts"]
    assert [each["executor"] for each in tried] == ["core", "spare"]
    assert not spare.calls
