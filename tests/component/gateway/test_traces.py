"""A caller's trace reaches the engine over both faces; one that is not valid is no error."""

import re

import pytest

from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

from .conftest import chat

TRACE = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": "vendor=one"}
NEW = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_over_http_takes_its_trace_along(gateway, stream):
    bench = await gateway()
    answer = await bench.client().post(
        "/v1/chat/completions", json=chat(stream=stream), headers=TRACE
    )
    assert answer.status_code == 200
    assert bench.engines["core"].calls[-1].trace == TRACE
    assert "traceparent" not in answer.headers, "no server of this API says it back"


@pytest.mark.parametrize("parent", ["", "nonsense", TRACE["traceparent"].upper()])
async def test_a_parent_that_is_not_valid_begins_a_new_trace(gateway, parent):
    bench = await gateway()
    headers = {**TRACE, "traceparent": parent}
    answer = await bench.client().post("/v1/chat/completions", json=chat(), headers=headers)
    assert answer.status_code == 200
    told = bench.engines["core"].calls[-1].trace
    assert set(told) == {"traceparent"}
    assert NEW.fullmatch(told["traceparent"])


async def test_requests_without_a_trace_have_one_each(gateway):
    bench = await gateway()
    for _ in range(2):
        await bench.client().post("/v1/chat/completions", json=chat())
    first, second = (call.trace["traceparent"] for call in bench.engines["core"].calls)
    assert NEW.fullmatch(first)
    assert first != second


async def test_a_turn_over_grpc_takes_its_trace_along(gateway):
    bench = await gateway()
    request = pb.GenerateRequest(prompt="one two")
    told = (("authorization", f"Bearer {bench.key}"), *TRACE.items())
    stub = rpc.GenerationServiceStub(bench.channel().raw)
    async for _ in stub.Generate(request, timeout=60, metadata=told):
        pass
    assert bench.engines["core"].calls[-1].trace == TRACE
