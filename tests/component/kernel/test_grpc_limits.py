"""Deadlines, sizes, numbers of calls, cancellation."""

import asyncio
import time
from types import SimpleNamespace

import grpc
import pytest

from consilium.kernel import calls, grpc_server
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_arrivals import Arrivals
from consilium.kernel.grpc_server import OPEN_STREAMS, SPARE_CALLS, GrpcServer, Service, Settings
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc


async def test_inside_a_call_without_a_deadline_or_with_an_absurd_one_is_refused(serve):
    bench = await serve(longest_deadline_s=100.0)
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for timeout in (None, 1000.0):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await stub.CountTokens(pb.CountTokensRequest(prompt="a"), timeout=timeout)
            assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert told.value.details().startswith("deadline: ")
        before = time.time()
        await stub.CountTokens(pb.CountTokensRequest(prompt="a"), timeout=50.0)
    assert before + 49 <= bench.script.seen[0].deadline <= time.time() + 51


async def test_on_the_public_face_a_call_gets_the_default_deadline(serve, until):
    bench = await serve(public=True, default_deadline_s=0.3)
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for timeout in (None, 60.0):
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await stub.CountTokens(pb.CountTokensRequest(prompt="sleep"), timeout=timeout)
            assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert dict(told.value.trailing_metadata())["x-consilium-error"] == ("deadline")
        with pytest.raises(ConsiliumError) as ours:
            [
                _
                async for _ in channel.listen(
                    stub.Generate, pb.GenerateRequest(prompt="count 100 20")
                )
            ]
        assert ours.value.code == "deadline"
    await until(lambda: bench.script.live == 0)


async def test_the_clients_own_deadline_ends_the_work_at_the_server(serve, until):
    bench = await serve()
    async with bench.channel(timeout_s=4.0) as channel:
        with pytest.raises(ConsiliumError) as told:
            [
                _
                async for _ in channel.listen(
                    rpc.GenerationServiceStub(channel.raw).Generate,
                    pb.GenerateRequest(prompt="count 100000 10"),
                )
            ]
        assert told.value.code == "deadline"
        await until(lambda: bench.script.closed == 1)


async def test_a_call_passes_on_what_is_left_of_its_own_deadline(serve):
    bench = await serve()
    async with bench.channel(timeout_s=60.0) as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        calls.enter(calls.Call("/a/B", "r", time.time() + 30))
        await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))
        assert bench.script.seen[0].deadline <= time.time() + 30
        calls.enter(calls.Call("/a/B", "r", time.time() - 1))
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))
        assert told.value.code == "deadline"
    assert len(bench.script.seen) == 1


@pytest.mark.parametrize("size", [1025, 3_000_000, 9_000_000])
async def test_a_message_over_the_limit_is_refused_with_its_code(serve, size):
    bench = await serve(public=True, max_message_bytes=1024)
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="x" * size))
        assert told.value.code == "body_too_large"
        assert (
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="fits"))
        ).tokens == 4
    assert len(bench.script.seen) == 1


async def test_calls_above_the_limit_are_refused_with_a_hint_and_health_still_answers(serve, until):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    bench = await serve(max_calls=3)
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        streams = [
            stub.Generate(pb.GenerateRequest(prompt="count 50000 10"), timeout=90) for _ in range(3)
        ]
        for stream in streams:
            await stream.read()
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))
        assert told.value.code == "queue_full"
        assert told.value.retry_after_s == 1.0
        assert (
            await health_pb2_grpc.HealthStub(channel.raw).Check(health_pb2.HealthCheckRequest())
        ).status == health_pb2.HealthCheckResponse.SERVING
        streams[0].cancel()
        await until(lambda: bench.server.running == 2)
        assert (await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))).tokens == 1


async def test_who_shows_no_key_cannot_fill_the_server_with_health_streams(
    serve, until, authenticate
):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    bench = await serve(authenticate=authenticate, max_calls=3)
    async with bench.channel(key="csl_good_key") as channel:
        health = health_pb2_grpc.HealthStub(channel.raw)
        watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(3 + SPARE_CALLS)]
        first = [asyncio.ensure_future(watch.read()) for watch in watches]
        await asyncio.wait(first, timeout=60)
        refused = [read.exception() for read in first if read.exception() is not None]
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert len(watches) - len(refused) == OPEN_STREAMS
        assert (
            await channel.ask(
                rpc.GenerationServiceStub(channel.raw).CountTokens,
                pb.CountTokensRequest(prompt="a"),
            )
        ).tokens == 1
        for watch in watches:
            watch.cancel()
        await until(lambda: bench.server.open_streams == 0)
        assert (
            await health.Watch(health_pb2.HealthCheckRequest()).read()
        ).status == health_pb2.HealthCheckResponse.SERVING


async def test_a_stream_too_many_is_not_served_though_its_caller_does_not_read_the_refusal(
    monkeypatch,
):
    """gRPC waits with the end of a call until its caller reads."""
    monkeypatch.setattr(grpc_server, "ABORT_S", 0.01)
    wrap = grpc_server._Wrap(Settings(), None, None, print, lambda _metadata: False, Arrivals(1.0))
    wrap.open_streams = OPEN_STREAMS
    asked = []

    class Deaf:
        async def abort(self, *_words):
            await asyncio.sleep(1)

    handler = SimpleNamespace(
        request_streaming=False,
        unary_stream=asked.append,
        request_deserializer=None,
        response_serializer=None,
    )
    await wrap._bounded(handler).stream_stream(None, Deaf())
    assert (asked, wrap.open_streams) == ([], OPEN_STREAMS)


@pytest.mark.parametrize("kind", ["stream_stream", "stream_unary"])
async def test_a_method_that_takes_a_stream_is_refused_because_nobody_looks_at_its_key(
    kind, authenticate
):
    seen = []

    async def take(requests, context):
        seen.append(1)

    handlers = {"Sync": getattr(grpc, f"{kind}_rpc_method_handler")(take)}
    service = Service(
        "x.Y",
        lambda server: server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("x.Y", handlers),)
        ),
    )
    server = GrpcServer(Settings(), [service], authenticate=authenticate)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = getattr(channel, kind)("/x.Y/Sync")(iter([b"a"]), timeout=60)
            with pytest.raises(grpc.aio.AioRpcError) as told:
                await (call.read() if kind == "stream_stream" else call)
            assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.stop(0)
    assert not seen


async def test_a_client_that_goes_away_closes_the_servicers_generator(serve, until):
    bench = await serve()
    async with bench.channel() as channel:
        stream = channel.listen(
            rpc.GenerationServiceStub(channel.raw).Generate,
            pb.GenerateRequest(prompt="count 50000 10"),
        )
        assert (await anext(stream)).text == "0"
        await stream.aclose()
        await until(lambda: bench.script.closed == 1)
        await until(lambda: bench.ended)
    assert [ended.code for ended in bench.ended] == ["CANCELLED"]


async def test_a_slow_reader_holds_up_nobody_else(serve, until):
    bench = await serve()
    async with bench.channel() as slow, bench.channel() as quick:
        held = rpc.GenerationServiceStub(slow.raw).Generate(
            pb.GenerateRequest(prompt="count 200000 0"), timeout=90
        )
        await held.read()
        got = [
            m
            async for m in quick.listen(
                rpc.GenerationServiceStub(quick.raw).Generate,
                pb.GenerateRequest(prompt="count 20 1"),
            )
        ]
        assert len(got) == 20
        held.cancel()
        await until(lambda: bench.server.running == 0)


async def test_every_call_is_observed_with_its_status(serve, until):
    bench = await serve(public=True)
    bench.script.raises = {
        "x": ConsiliumError("rate_limited", limit=1, unit="requests", retry_after_s=2)
    }
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"))
        with pytest.raises(ConsiliumError):
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="x"))
    await until(
        lambda: len(bench.ended) == 2
    )  # the caller hears of the end a moment before it is counted
    assert [(ended.method, ended.code) for ended in bench.ended] == [
        ("/consilium.v1.GenerationService/CountTokens", code)
        for code in ("OK", "RESOURCE_EXHAUSTED")
    ]
