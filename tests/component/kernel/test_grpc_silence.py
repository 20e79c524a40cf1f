"""Calls that bring no message, connections that say nothing, streams that nobody reads: none of them keeps others out."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc
from tests.component.kernel.conftest import NAME

from consilium.kernel import grpc_arrivals
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_arrivals import SILENT_OF_ONE
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

GOOD = (("authorization", "Bearer csl_good_key"),)


def opened(channel, method=f"/{NAME}/CountTokens", metadata=GOOD, timeout=90):
    """Open a method that takes one message as a stream, and write nothing."""
    return channel.raw.stream_stream(method)(metadata=metadata, timeout=timeout)


async def ended(call):
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call.read()
    return told.value


async def read_all(call):
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_who_shows_no_key_is_told_so_before_a_message_has_come(serve, authenticate):
    bench = await serve(authenticate=authenticate, message_s=600.0)
    async with bench.channel() as channel:
        told = await ended(opened(channel, metadata=()))
        assert told.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_call_that_never_says_anything_is_ended_and_holds_no_place(
    serve, authenticate, until
):
    bench = await serve(authenticate=authenticate, max_calls=3, message_s=10.0)
    async with bench.channel(key="csl_good_key") as channel:
        silent = [opened(channel) for _ in range(40)]
        await until(lambda: bench.server.silent == 40)
        assert bench.server.running == 0
        asked = rpc.GenerationServiceStub(channel.raw).CountTokens
        assert (await channel.ask(asked, pb.CountTokensRequest(prompt="abc"))).tokens == 3
        for call in silent:
            told = await ended(call)
            assert told.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert told.details().startswith("message: it did not come within 10 s")
        await until(lambda: bench.server.silent == 0)


async def test_one_caller_may_have_so_many_silent_calls_and_others_are_not_touched(serve, until):
    bench = await serve(max_calls=3, message_s=600.0)
    async with bench.channel() as channel, bench.channel() as other:
        silent = [opened(channel) for _ in range(SILENT_OF_ONE + 38)]
        reading = [asyncio.ensure_future(call.read()) for call in silent]
        await until(lambda: sum(task.done() for task in reading) == 38)
        over = [task for task in reading if task.done()]
        assert {task.exception().code() for task in over} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert bench.server.silent == SILENT_OF_ONE
        late = opened(other, metadata=(("authorization", "Bearer another"),))
        await asyncio.sleep(0.3)
        await late.write(pb.CountTokensRequest(prompt="slow").SerializeToString())
        assert pb.CountTokensResponse.FromString(await late.read()).tokens == 4
        for call in silent:
            call.cancel()


async def test_a_late_caller_is_looked_up_before_its_message_has_come(serve_vouching, monkeypatch):
    server, asked = serve_vouching
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.stream_stream(f"/{NAME}/CountTokens")(
            metadata=(("authorization", "Bearer false"),), timeout=60
        )
        assert (await ended(call)).code() is grpc.StatusCode.UNAUTHENTICATED
        monkeypatch.setattr(grpc_arrivals, "GRACE_S", 60.0)
        prompt = pb.CountTokensRequest(prompt="quick")
        await rpc.GenerationServiceStub(channel).CountTokens(prompt, timeout=60)
    assert asked == ["Bearer false"], "a message that is there costs no look"


@pytest.fixture
async def serve_vouching():
    from tests.component.kernel.conftest import Script

    from consilium.kernel.grpc_server import GrpcServer, Service, Settings

    asked = []

    async def vouch(metadata):
        asked.append(metadata.get("authorization"))
        raise ConsiliumError("unauthenticated", reason="This API key is not known here.")

    add = rpc.add_GenerationServiceServicer_to_server
    service = Service(NAME, lambda server: add(Script(), server))
    server = GrpcServer(Settings(public=True, message_s=600.0), [service], vouch=vouch)
    await server.start()
    yield server, asked
    await server.stop(0)


async def test_probes_that_say_nothing_leave_the_others_alone(serve, until):
    bench = await serve(max_calls=3, message_s=10.0, reflection=True)
    async with bench.channel() as channel:
        silent = [
            opened(channel, f"/grpc.health.v1.Health/{name}", ())
            for name in ("Check", "Watch")
            for _ in range(20)
        ]
        mute = reflection_pb2_grpc.ServerReflectionStub(channel.raw).ServerReflectionInfo()
        await until(lambda: bench.server.open_streams == 21)
        health = health_pb2_grpc.HealthStub(channel.raw)
        said = await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert said.status == health_pb2.HealthCheckResponse.SERVING
        for call in silent:
            assert (await ended(call)).code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await mute.read() is grpc.aio.EOF
        await until(lambda: bench.server.open_streams == 0)


async def test_a_call_that_ends_without_a_message_is_told_so(serve):
    bench = await serve()
    async with bench.channel() as channel:
        call = opened(channel)
        await call.done_writing()
        told = await ended(call)
        assert told.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "without one" in told.details()


@pytest.mark.parametrize("greeting", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
async def test_a_connection_that_does_not_greet_is_closed(serve, greeting):
    bench = await serve(message_s=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(greeting)
    async with asyncio.timeout(60):
        await reader.read()
    writer.close()


async def test_a_connection_without_calls_is_closed_after_a_while(serve):
    bench = await serve(idle_s=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", bench.server.port)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" * 2)
    writer.write(b"\0\0\0\4\1\0\0\0\0")
    async with asyncio.timeout(60):
        while await reader.read(1024):
            pass
    writer.close()


async def test_a_stream_that_nobody_reads_is_ended_and_its_generator_closed(serve, until):
    bench = await serve(public=True, unread_s=0.5)
    bench.script.padding = "x" * 10_000
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        held = stub.Generate(pb.GenerateRequest(prompt="count 2000000 0"), timeout=60)
        await held.read()
        await until(lambda: bench.script.closed == 1)
        await until(lambda: bench.server.running == 0)
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await read_all(held)
        assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "The reader of this stream" in told.value.details()
    assert [ended.code for ended in bench.ended] == ["DEADLINE_EXCEEDED"]
