"""The gRPC face, by our own client and by the bare stub."""

import asyncio
import contextlib
import json
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.waiting import LIMIT_S

from consilium.engine import wire
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.ports import Head, Tail
from consilium.gateway import turn
from consilium.gateway.client import Begun, GenerationClient, Message, TokenChance, ToolCall
from consilium.gateway.config import Role
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc


@pytest.fixture
def ask(gateway):
    """Start a gateway and return it with a client."""

    async def start(**options):
        bench = await gateway(**options)
        client = GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=bench.key, timeout_s=LIMIT_S)
        bench.opened.append(client.aclose)
        return bench, client

    return start


def said(text):
    return [Message("user", text)]


async def test_a_turn_comes_in_pieces_and_ends_with_usage_and_receipt(ask):
    _, client = await ask()
    pieces = [
        piece async for piece in client.stream(said("one two three"), model="auto", max_tokens=2)
    ]
    assert "".join(piece.text for piece in pieces) == "one two"
    assert len([piece for piece in pieces if piece.text]) == 2
    last = pieces[-1]
    assert (last.done, last.finish_reason, dict(last.usage)) == (
        True,
        "length",
        {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0},
    )
    assert last.receipt["executor"] == "core"
    whole = await client.generate(said("a b"))
    assert whole.text == "a b"
    kept = None
    async with asyncio.timeout(LIMIT_S):
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
    request = pb.GenerateRequest(
        model="role/sage",
        chat=pb.Chat(
            messages=[pb.Message(author=pb.AUTHOR_USER, content=[pb.ContentPart(text="hi")])]
        ),
    )
    answers = [answer async for answer in channel.listen(stub.Generate, request)]
    first = answers[0].metadata
    assert (
        first.executor,
        first.replica,
        first.model,
        first.role,
        first.profile,
        first.template,
    ) == ("core", "core#0", "echo", "sage", "think", "model")
    assert first.receipt_id == answers[-1].final.receipt.id
    assert first.request_id
    assert answers[-1].final.receipt.role == "sage"
    assert [step.name for step in answers[-1].final.receipt.steps][:2] == [
        "received",
        "profile_chosen",
    ]


async def test_a_prompt_is_a_completion(ask):
    bench, _ = await ask()
    channel = bench.channel()
    stub = rpc.GenerationServiceStub(channel.raw)
    answers = [
        answer
        async for answer in channel.listen(
            stub.Generate,
            pb.GenerateRequest(model="base", prompt="x y", sampling=pb.Sampling(temperature=0)),
        )
    ]
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
        body = {
            "model": options.get("model", "auto"),
            "messages": [{"role": "user", "content": messages[0].text}],
            **ours,
        }
        same = (await http.post("/v1/chat/completions", json=body)).json()["error"]
        assert (same["code"], same["message"]) == (code, raised.value.public())


async def test_keys_and_quotas_hold_here_too(ask):
    bench, _ = await ask()
    for key, code in [
        ("x", "unauthenticated"),
        (await bench.new_key(scopes=frozenset({"read"})), "forbidden"),
    ]:
        async with GenerationClient(f"127.0.0.1:{bench.grpc.port}", key=key) as client:
            with pytest.raises(ConsiliumError) as raised:
                await client.generate(said("x"))
            assert raised.value.code == code
    async with GenerationClient(
        f"127.0.0.1:{bench.grpc.port}", key=await bench.new_key(rpm=1)
    ) as client:
        await client.generate(said("x"))
        with pytest.raises(ConsiliumError) as raised:
            await client.generate(said("x"))
        assert (raised.value.code, raised.value.retry_after_s > 0) == ("rate_limited", True)


async def test_closing_the_stream_stops_the_engine(ask):
    bench, client = await ask()
    stream = client.stream(said("one two !wait"))
    assert (await anext(stream)).begun.executor == "core"
    assert (await anext(stream)).text == "one"
    await stream.aclose()
    await bench.until(lambda: not bench.engines["core"].running)
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)


async def test_the_callers_deadline_reaches_the_engine(ask):
    bench, client = await ask()
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("!wait"), timeout_s=4)
    assert raised.value.code == "deadline"
    assert bench.engines["core"].calls[-1].deadline < time.time() + 4
    await bench.until(lambda: not bench.engines["core"].running)


async def test_fallback_and_a_break_after_the_first_word(ask):
    bench, client = await ask(
        engines=[EchoEngine(), EchoEngine("spare")],
        roles={"sage": Role(frame="x", fallback="spare")},
    )
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("one !break two"))
    assert raised.value.code == "upstream_down"
    await bench.engines["core"].stop()
    answer = await client.generate(said("hi"), model="role/sage")
    assert (answer.receipt["executor"], answer.receipt["fallback_from"]) == ("spare", "core")


async def test_models_tokens_and_vectors(ask):
    bench, client = await ask(roles={"sage": Role(frame="x")})
    assert await client.models() == sorted(
        ["auto", "base", "echo", "executor/core", "role/sage", *bench.face.embeddings.names]
    )
    stub = rpc.GenerationServiceStub(bench.channel().raw)
    metadata = (("authorization", f"Bearer {bench.key}"),)
    page = await stub.ListModels(pb.ListModelsRequest(page_size=2), metadata=metadata)
    assert ([model.id for model in page.models], page.next_page_token) == (["auto", "base"], "base")
    assert all(model.description for model in page.models)
    whole = await stub.ListModels(pb.ListModelsRequest(), metadata=metadata)
    told = {model.id: (model.kind, model.root) for model in whole.models}
    assert told["base"] == (pb.MODEL_KIND_CORE, "echo")
    assert told["role/sage"] == (pb.MODEL_KIND_ROLE, "echo")
    assert told["text-embedding-3-small"] == (pb.MODEL_KIND_EMBEDDING, "two-numbers")
    assert await client.count_tokens(said("a b c")) == 3
    counted = await stub.CountTokens(
        pb.CountTokensRequest(prompt="aa b", return_tokens=True), metadata=metadata
    )
    assert (counted.tokens, list(counted.token_ids), counted.context_tokens) == (2, [2, 1], 4096)
    embedded = await client.vectors(["a b", "c"], kind="query", dimensions=1)
    assert embedded.fingerprint == bench.face.embeddings.fingerprint(1).key()
    assert [len(row) for row in embedded.rows] == [4, 4]
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await stub.Embed(pb.EmbedRequest(texts=["a"], kind=7), metadata=metadata)
    assert unknown.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for name, says in (("base", "makes no vectors"), ("nope", "no model")):
        with pytest.raises(ConsiliumError, match=says):
            await client.vectors(["a"], model=name)
    with pytest.raises(ConsiliumError, match="makes vectors and does not answer"):
        await client.generate(said("a"), model="two-numbers")
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
        call = channel.raw.unary_stream("/consilium.v1.GenerationService/Generate")(
            dice.randbytes(dice.randint(0, 200)), metadata=metadata, timeout=LIMIT_S
        )
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


async def test_health_and_reflection_need_no_key_and_know_the_service(ask):
    bench, _ = await ask()
    raw = bench.channel(key="none").raw
    health = await health_pb2_grpc.HealthStub(raw).Check(
        health_pb2.HealthCheckRequest(service="consilium.v1.GenerationService")
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    call = reflection_pb2_grpc.ServerReflectionStub(raw).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await call.read()
    await call.write(
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="consilium.v1.GenerationService"
        )
    )
    described = await call.read()
    await call.done_writing()
    assert {"consilium.v1.GenerationService", "grpc.health.v1.Health"} <= {
        service.name for service in listed.list_services_response.service
    }
    assert any(
        b"GenerateRequest" in file
        for file in described.file_descriptor_response.file_descriptor_proto
    )


async def test_a_message_over_the_limit_is_refused_as_over_http(ask):
    bench, client = await ask(max_body_bytes=2048)
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("x" * 3000))
    answer = await bench.client().post(
        "/v1/chat/completions",
        json={"model": "auto", "messages": [{"role": "user", "content": "x" * 3000}]},
    )
    assert raised.value.code == answer.json()["error"]["code"] == "body_too_large"
    assert not bench.engines["core"].calls
    assert (await client.generate(said("fits"))).text == "fits"


async def test_receipts_and_depth_are_refused_in_the_words_of_http(ask):
    bench, client = await ask()
    http = bench.client()
    with pytest.raises(ConsiliumError) as raised:
        await client.receipt("none" * 40)
    assert (
        raised.value.public()
        == (await http.get("/v1/receipts/" + "none" * 40)).json()["error"]["message"]
    )
    deep = {"logit_bias": json.loads("[" * 70 + "]" * 70)}
    with pytest.raises(ConsiliumError) as raised:
        await client.generate(said("x"), extra=deep)
    refused = (
        await http.post(
            "/v1/chat/completions",
            json={"model": "auto", "messages": [{"role": "user", "content": "x"}], **deep},
        )
    ).json()["error"]
    assert (raised.value.code, raised.value.fields["reason"]) == (
        refused["code"],
        refused["message"].removeprefix("body: "),
    )
    assert raised.value.fields["field"] == "extra_json"


class Caller(EchoEngine):
    """Answers with a tool call in two pieces, beside the log probability of a word."""

    async def stream(self, call):
        await self.check()
        self.calls.append(call)
        head = Head(200, stream=True, content_type=wire.SSE, replica="core#0", executor="core")
        top = [{"token": "no", "logprob": -2.0}]
        deltas = [
            {
                "delta": {"content": "yes"},
                "logprobs": {"content": [{"token": "yes", "logprob": -0.5, "top_logprobs": top}]},
            },
            {
                "delta": {
                    "tool_calls": [
                        {"index": 0, "id": "c1", "function": {"name": "look", "arguments": '{"a"'}}
                    ]
                }
            },
            {
                "delta": {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
                "finish_reason": "tool_calls",
            },
        ]
        body = b"".join(
            b"data: " + json.dumps({"choices": [delta]}).encode() + b"\n\n" for delta in deltas
        )
        yield wire.head_frame(head, body[:100])
        yield body[100:]
        yield wire.tail_frame(Tail(finish_reason="tool_calls"), wire.DONE)


async def test_tool_calls_and_log_probabilities_arrive_whole_and_go_back(ask):
    bench, client = await ask(engines=[Caller()])
    answer = await client.generate(
        said("x"), extra={"tools": [{"type": "function", "function": {"name": "look"}}]}
    )
    assert (answer.text, answer.finish_reason) == ("yes", "tool_calls")
    assert answer.tool_calls == (ToolCall("c1", "look", '{"a":1}'),)
    assert answer.chances == (TokenChance("yes", -0.5, (TokenChance("no", -2.0),)),)
    assert bench.engines["core"].calls[-1].body["tools"][0]["function"]["name"] == "look"
    await client.generate(
        [
            *said("x"),
            Message("assistant", "", answer.tool_calls),
            Message("tool", "7", tool_call_id="c1"),
        ]
    )
    _, asked, given = bench.engines["core"].calls[-1].body["messages"]
    assert asked["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    ]
    assert given == {"role": "tool", "content": "7", "tool_call_id": "c1"}


async def test_the_client_tells_who_answers_first(ask):
    _, client = await ask()
    pieces = [piece async for piece in client.stream(said("a"))]
    first = pieces[0].begun
    assert isinstance(first, Begun)
    assert (first.model, first.executor, first.receipt_id) == (
        "echo",
        "core",
        pieces[-1].receipt["id"],
    )
    assert pieces[-1].receipt["model"] == "echo"


async def test_a_stream_that_nobody_reads_stops_the_engine_and_the_receipt_says_so(
    gateway, log_lines
):
    bench = await gateway(unread_s=0.5, engines=[EchoEngine(context=1_000_000)])
    stub = rpc.GenerationServiceStub(bench.channel().raw)
    request = pb.GenerateRequest(prompt=" ".join(["a" * 4000] * 2000))
    metadata = (("authorization", f"Bearer {bench.key}"),)
    call = stub.Generate(request, timeout=60, metadata=metadata)
    receipt_id = (await call.read()).metadata.receipt_id
    await bench.until(lambda: bench.face.cast.gate.running("core") == 0)
    await bench.until(lambda: not bench.engines["core"].running)
    await turn.finish_background()
    receipt = await bench.stores.receipts.get(receipt_id)
    assert "ended: the caller read nothing for 0.5 s" in receipt["notes"]
    call.cancel()


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("", "UNAUTHENTICATED"),
        ("Bearer csl_0123456789ab_" + "0" * 48, "UNAUTHENTICATED"),
        (None, "INVALID_ARGUMENT"),
    ],
)
async def test_70_calls_that_never_write_keep_no_caller_out(gateway, key, code):
    """They end with a word of the gateway's, long before their own deadline."""
    bench = await gateway(grpc_message_s=2.0)
    raw = bench.channel().raw
    shown = f"Bearer {bench.key}" if key is None else key
    silent = [
        raw.stream_stream("/consilium.v1.GenerationService/Generate")(
            metadata=(("authorization", shown),), timeout=600
        )
        for _ in range(70)
    ]
    ends = [asyncio.ensure_future(call.read()) for call in silent]
    models = await rpc.GenerationServiceStub(raw).ListModels(
        pb.ListModelsRequest(),
        timeout=LIMIT_S,
        metadata=(("authorization", f"Bearer {bench.key}"),),
    )
    assert models.models
    await asyncio.wait(ends, timeout=LIMIT_S)
    assert {end.exception().code().name for end in ends} == {code}
