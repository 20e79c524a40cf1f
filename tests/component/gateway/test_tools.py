"""Tools for a model that cannot call any, through both faces: left out and told, or refused with the setting's name."""

import json

import grpc
import pytest

from consilium.engine.answerable import Abilities
from consilium.engine.backends.echo import EchoEngine
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

from .conftest import chat

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FLAT = {"type": "function", "name": "f", "parameters": {"type": "object"}}
BODIES = {
    "/v1/chat/completions": chat(tools=[TOOL]),
    "/v1/responses": {"model": "auto", "input": "one two", "tools": [FLAT]},
}


def speechless():
    return EchoEngine(able=Abilities(calls_tools=False))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_it_answers_without_and_says_so(gateway, path, stream):
    bench = await gateway(engines=(speechless(),))
    said = await bench.client().post(path, json={**BODIES[path], "stream": stream})
    assert (said.status_code, said.headers["x-consilium-tools"]) == (200, "left-out")
    kept = f"/v1/receipts/{said.headers['x-consilium-receipt']}"
    receipt = (await bench.client().get(kept)).json()
    assert any("engine.tool_parser" in note for note in receipt["notes"])
    assert "tools" not in bench.engines["core"].calls[0].body


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_demanded_call_is_refused_with_the_setting(gateway, path, stream):
    bench = await gateway(engines=(speechless(),))
    body = {**BODIES[path], "stream": stream, "tool_choice": "required"}
    said = await bench.client().post(path, json=body)
    assert said.status_code == 400
    assert "engine.tool_parser" in said.json()["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_a_model_that_calls_tools_gets_them_and_nothing_is_said(gateway, path):
    bench = await gateway()
    said = await bench.client().post(path, json=BODIES[path])
    assert (said.status_code, "x-consilium-tools" in said.headers) == (200, False)
    assert bench.engines["core"].calls[0].body["tools"]


async def test_grpc_says_the_same(gateway):
    bench = await gateway(engines=(speechless(),))
    asked = pb.GenerateRequest(
        model="auto",
        chat=pb.Chat(
            messages=[pb.Message(author=pb.AUTHOR_USER, content=[pb.ContentPart(text="one two")])]
        ),
        tools=[pb.Tool(name="f", parameters_json=json.dumps({"type": "object"}))],
    )
    metadata = (("authorization", f"Bearer {bench.key}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.grpc.port}") as channel:
        stub = rpc.GenerationServiceStub(channel)
        call = stub.Generate(asked, metadata=metadata, timeout=60)
        messages = [message async for message in call]
        assert dict(await call.initial_metadata())["x-consilium-tools"] == "left-out"
        assert "engine.tool_parser" in messages[-1].final.receipt.json
        asked.tool_choice = pb.TOOL_CHOICE_REQUIRED
        refused = stub.Generate(asked, metadata=metadata, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [message async for message in refused]
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "engine.tool_parser" in (caught.value.details() or "")
