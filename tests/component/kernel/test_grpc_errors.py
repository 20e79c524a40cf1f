"""One code means the same over gRPC and HTTP, and nothing private gets out."""

import grpc
import pytest

from consilium.kernel import errors
from consilium.kernel.catalogue import ROWS
from consilium.kernel.errors import ConsiliumError
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

FIELDS = {"field": "temperature", "reason": "it is 3", "tokens": 9000, "limit": 8192, "size": 9, "name": "роль", "nearest": "role/x", "kept": "24 h", "method": "PUT",
          "allowed": "GET", "running": 4, "unit": "tokens", "seconds": 5, "request_id": "r1", "key": "k", "asked": 2, "seen": 1, "port": 80, "owner": "x", "state": "/s",
          "wanted": "3.11", "path": "/p", "free": "1 GB", "needed": "2 GB", "param": "temperature"}  # fmt: skip


@pytest.mark.parametrize("code", [row.code for row in ROWS])
async def test_the_same_error_arrives_over_grpc_that_http_would_tell(serve, code):
    bench = await serve(public=True)
    raised = ConsiliumError(code, "private /secret/path", retry_after_s=1.5, **FIELDS)
    bench.script.raises = {"x": raised}
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        with pytest.raises(ConsiliumError) as unary:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="x"))
        with pytest.raises(ConsiliumError) as streamed:
            [_ async for _ in channel.listen(stub.Generate, pb.GenerateRequest(prompt="x"))]
        with pytest.raises(grpc.aio.AioRpcError) as bare:
            await stub.CountTokens(pb.CountTokensRequest(prompt="x"))
    for told in (unary.value, streamed.value):
        assert told.code == code
        assert told.public() == raised.public()
        assert errors.to_openai(told) == errors.to_openai(raised)
        assert errors.http_status(told) == errors.http_status(raised)
        assert told.retry_after_s == 1.5
        assert "secret" not in str(told)
    assert bare.value.code().name == raised.row.grpc
    assert bare.value.details() == raised.public()
    assert dict(bare.value.trailing_metadata())["x-consilium-error"] == code
    assert "secret" not in repr(bare.value)


async def test_an_unknown_exception_leaks_nothing_but_the_request_id(serve, _logs):
    bench = await serve(public=True)
    bench.script.raises = {"x": ZeroDivisionError("postgres://root:hunter2@db")}
    async with bench.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await rpc.GenerationServiceStub(channel.raw).CountTokens(
                pb.CountTokensRequest(prompt="x")
            )
    assert told.value.code() is grpc.StatusCode.INTERNAL
    assert told.value.details() == "Something went wrong on our side. Request id: made-1."
    assert "hunter2" not in repr(told.value)
    assert "ZeroDivision" not in repr(told.value)
    assert any(line["event"] == "rpc_broke" for line in _logs), "the cause is in the log"


async def test_a_method_that_is_not_there_and_a_message_of_another_type(serve):
    bench = await serve(public=True)
    async with bench.channel() as channel:
        unknown = channel.raw.unary_unary("/consilium.v1.GenerationService/Sing")
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(unknown, b"")
        assert told.value.code == "not_supported"
        wrong = channel.raw.unary_unary("/consilium.v1.GenerationService/CountTokens")
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(wrong, b"\xff\xfe\xfd" * 3333)
        assert told.value.code == "invalid_request"
        assert "message" in told.value.public()


async def test_nobody_at_the_other_end_is_upstream_down(serve):
    bench = await serve(public=True)
    async with bench.channel(timeout_s=60.0) as channel:
        await bench.server.stop(0)
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(
                rpc.GenerationServiceStub(channel.raw).CountTokens, pb.CountTokensRequest()
            )
    assert told.value.code == "upstream_down"
    assert told.value.retry_after_s == 1.0
    assert "gateway" in told.value.public()


async def test_a_key_is_asked_for_and_its_owner_is_known_to_the_servicer(serve, authenticate):
    bench = await serve(public=True, authenticate=authenticate)
    async with (
        bench.channel(key="csl_good_key") as good,
        bench.channel(key="csl_bad_key") as bad,
        bench.channel() as none,
    ):
        stub = rpc.GenerationServiceStub(good.raw)
        assert (await good.ask(stub.CountTokens, pb.CountTokensRequest(prompt="abc"))).tokens == 3
        assert bench.script.seen[-1].principal == "principal-1"
        for channel in (bad, none):
            with pytest.raises(ConsiliumError) as told:
                await channel.ask(
                    rpc.GenerationServiceStub(channel.raw).CountTokens,
                    pb.CountTokensRequest(prompt="abc"),
                )
            assert told.value.code == "unauthenticated"
    assert len(bench.script.seen) == 1


async def test_the_callers_request_id_is_kept_and_a_bad_one_replaced(serve):
    bench = await serve(public=True)
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for sent, kept in (("abc-1", "abc-1"), ("x" * 65, "made-1"), ("a b", "made-2")):
            await stub.CountTokens(
                pb.CountTokensRequest(prompt="a"), metadata=(("x-request-id", sent),)
            )
            assert bench.script.seen[-1].request_id == kept


async def test_a_call_that_found_nobody_is_tried_three_times_and_no_other_error_is(serve):
    bench = await serve(public=True)
    bench.script.raises = {
        "away": ConsiliumError("upstream_down", name="core", retry_after_s=2),
        "full": ConsiliumError("queue_full"),
    }
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for prompt, tries in (("away", 3), ("full", 1)):
            bench.script.seen.clear()
            with pytest.raises(ConsiliumError) as told:
                await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt=prompt))
            assert told.value.code == bench.script.raises[prompt].code
            assert len(bench.script.seen) == tries


async def test_an_answer_that_breaks_off_keeps_what_was_said_and_is_not_begun_again(serve):
    bench = await serve(public=True)
    bench.script.raises = {"away": ConsiliumError("upstream_down", name="core", retry_after_s=2)}
    got = []
    async with bench.channel() as channel:
        answer = channel.listen(
            rpc.GenerationServiceStub(channel.raw).Generate,
            pb.GenerateRequest(prompt="count 3 5 away"),
        )

        async def read() -> None:
            async for message in answer:
                got.append(message.text)

        with pytest.raises(ConsiliumError) as told:
            await read()
    assert got == ["0", "1", "2"]
    assert told.value.code == "upstream_down"
    assert len(bench.script.seen) == 1
