"""The gRPC face, by our own client and by the bare stub."""

import asyncio
import contextlib
import json
import time

import grpc
import pytest

from consilium.engine.backends.echo import EchoEngine
from consilium.gateway.client import GenerationClient, Message
from consilium.gateway.config import Role
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc


@pytest.fixture
def ask(gateway):
    """Start a gateway and return it with a client."""

    async def start(**options):
        bench = await gateway(**options)
        client = GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=bench.key, timeout_s=20)
        bench.opened.append(client.aclose)
        return bench, client

    return start


def said(text):
    return [Message("user", text)]


async def test_a_turn_comes_in_pieces_and_ends_with_usage_and_receipt(ask):
    _, client = await ask()
    pieces = [piece async for piece in client.stream(said("one two three"), model="auto", max_tokens=2)]
    assert "".join(piece.text for piece in pieces) == "one two"
    assert len([piece for piece in pieces if piece.text]) == 2
    last = pieces[-1]
    assert (last.done, last.finish_reason, dict(last.usage)) == (True, "length", {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0})
    assert last.receipt["executor"] == "core"
    whole = await client.generate(said("a b"))
    assert whole.text == "a b"
    kept = None
    async with asyncio.timeout(5):
        while kept is None:
            try:
                kept = await client.receipt(whole.receipt["id"])
            except ConsiliumError:
                await asyncio.sleep(0.01)
    assert kept["id"] == whole.receipt["id"]


async def test_the_first_message_says_who_answers(ask):
    bench, _ = await ask(roles={"sage": Role(frame="Wise.", profile="think")})
    channel = bench.channel()
    stub = rpc.GenerationServiceStub(channel.raw)
    request = pb.GenerateRequest(model="role/sage", chat=pb.Chat(messages=[pb.Message(author=pb.AUTHOR_USER, content=[pb.ContentPart(text="hi")])]))
    answers = [answer async for answer in channel.listen(stub.Generate, request)]
    first = answers[0].metadata
    assert (first.executor, first.replica, first.model, first.role, first.profile, first.template) == ("core", "core#0", "echo", "sage", "think", "model")
    assert first.receipt_id == answers[-1].final.receipt.id
    assert first.request_id
    assert answers[-1].final.receipt.role == "sage"
    assert [step.name for step in answers[-1].final.receipt.steps][:2] == ["received", "profile_chosen"]


async def test_a_prompt_is_a_completion(ask):
    bench, _ = await ask()
    channel = bench.channel()
    stub = rpc.GenerationServiceStub(channel.raw)
    answers = [answer async for answer in channel.listen(stub.Generate, pb.GenerateRequest(model="base", prompt="x y", sampling=pb.Sampling(temperature=0)))]
    assert "".join(answer.text for answer in answers) == "x y"
    assert bench.engines["core"].calls[-1].route == "completions"
    assert bench.engines["core"].calls[-1].body["temperature"] == 0


async def test_errors_are_the_same_as_over_http(ask):
    bench, client = await ask()
    cases = [(said("x " * 5000), {}, "prompt_too_long"), (said("x"), {"model": "executor/cor"}, "model_unknown"), (said("x"), {"model": "adapter/y"}, "adapter_unknown"),
             (said("x"), {"profile": "none"}, "invalid_request"), ([Message("nobody", "x")], {}, "invalid_request"), (said("!fail"), {}, "internal")]  # fmt: skip
    http = bench.client()
    for messages, options, code in cases:
        with pytest.raises(ConsiliumError) as raised:
            await client.generate(messages, **options)
        assert raised.value.code == code
        if messages[0].author == "nobody" or code == "internal":
            continue
        ours = {"consilium": {"profile": options["profile"]}} if "profile" in options else {}
        body = {"model": options.get("model", "auto"), "messages": [{"role": "user", "content": messages[0].text}], **ours}
        same = (await http.post("/v1/chat/completions", json=body)).json()["error"]
        assert (same["code"], same["message"]) == (code, raised.value.public())


async def test_keys_and_quotas_hold_here_too(ask):
    bench, _ = await ask()
    for key, code in [("x", "unauthenticated"), (await bench.new_key(scopes=frozenset({"read"})), "forbidden")]:
        async with GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=key) as client:
            with pytest.raises(ConsiliumError) as raised:
                await client.generate(said("x"))
            assert raised.value.code == code
    async with GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=await bench.new_key(rpm=1)) as client:
        await client.generate(said("x"))
        with pytest.raises(ConsiliumError) as raised:
            await client.generate(said("x"))
        assert (raised.value.code, raised.value.retry_after_s > 0) == ("rate_limited", True)


async def test_closing_the_stream_stops_the_engine_within_a_second(ask):
    bench, client = await ask()
    stream = client.stream(said("one two !wait"))
    first = await anext(stream)
    assert first.text == "one"
    began = time.monotonic()
    await stream.aclose()
    await bench.until(lambda: not bench.engines["core"].running)
    assert time.monotonic() - began < 1
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)


async def test_the_callers_deadline_reaches_the_engine(ask):
    bench, client = await ask()
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("!wait"), timeout_s=0.3)
    assert raised.value.code == "deadline"
    assert bench.engines["core"].calls[-1].deadline - time.time() < 0.3
    await bench.until(lambda: not bench.engines["core"].running)


async def test_fallback_and_a_break_after_the_first_word(ask):
    bench, client = await ask(engines=[EchoEngine(), EchoEngine("spare")], roles={"sage": Role(frame="x", fallback="spare")})
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("one !break two"))
    assert raised.value.code == "upstream_down"
    await bench.engines["core"].stop()
    answer = await client.generate(said("hi"), model="role/sage")
    assert (answer.receipt["executor"], answer.receipt["fallback_from"]) == ("spare", "core")


async def test_models_tokens_and_vectors(ask):
    bench, client = await ask(roles={"sage": Role(frame="x")})
    assert await client.models() == ["auto", "base", "echo", "executor/core", "role/sage"]
    stub = rpc.GenerationServiceStub(bench.channel().raw)
    metadata = (("authorization", f"Bearer {bench.key}"),)
    page = await stub.ListModels(pb.ListModelsRequest(page_size=2), metadata=metadata)
    assert ([model.id for model in page.models], page.next_page_token) == (["auto", "base"], "base")
    assert all(model.description for model in page.models)
    assert await client.count_tokens(said("a b c")) == 3
    counted = await stub.CountTokens(pb.CountTokensRequest(prompt="aa b", return_tokens=True), metadata=metadata)
    assert (counted.tokens, list(counted.token_ids), counted.context_tokens) == (2, [2, 1], 4096)
    (one, two) = await client.embed(["a b", "c"])
    assert (len(one), len(two)) == (2, 2)
    with pytest.raises(ConsiliumError) as raised:
        await client.embed([])
    assert raised.value.code == "invalid_request"


async def test_random_bytes_are_refused_and_nothing_breaks(ask, log_lines):
    import random

    bench, _ = await ask()
    channel = bench.channel()
    metadata = (("authorization", f"Bearer {bench.key}"),)
    dice = random.Random(7)
    for number in range(400):
        call = channel.raw.unary_stream("/consilium.v1.GenerationService/Generate")(dice.randbytes(dice.randint(0, 200)), metadata=metadata, timeout=5)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
        assert await call.code() is not grpc.StatusCode.INTERNAL, number
    assert not [line for line in log_lines if line["event"] == "rpc_broke"]


async def test_32_streams_are_finished_by_a_server_that_stops(ask):
    bench, client = await ask(engines=[EchoEngine(delay_s=0.05)])
    text = " ".join(["!slow"] * 10)
    live = [asyncio.create_task(client.generate(said(text))) for _ in range(32)]
    await bench.until(lambda: len(bench.engines["core"].running) == 32)
    stopping = asyncio.create_task(bench.grpc.stop(10))
    answers = await asyncio.gather(*live)
    await stopping
    assert [answer.text for answer in answers] == [text] * 32
    assert all(json.dumps(answer.receipt) for answer in answers)
