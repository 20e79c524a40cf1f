"""Health, reflection, two servers on one port, and the end of a server under load."""

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.waiting import sooner_than

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import free_port
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

NAME = "consilium.v1.GenerationService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def listed(channel):
    call = reflection_pb2_grpc.ServerReflectionStub(channel.raw).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    answer = await call.read()
    await call.done_writing()
    return {service.name for service in answer.list_services_response.service}


async def test_reflection_is_there_when_it_is_on_without_key_and_deadline(serve, authenticate):
    bench = await serve(reflection=True, authenticate=authenticate)
    async with bench.channel() as channel:
        assert {NAME, "grpc.health.v1.Health"} <= await listed(channel)


async def test_reflection_is_not_there_when_it_is_off(serve):
    bench = await serve()
    async with bench.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await listed(channel)
    assert told.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_client_that_knows_nothing_of_us_learns_the_service_by_reflection_and_calls_it(
    serve,
):
    """As grpcurl does: list, describe, call; the messages are built from what the server says of itself, not from our generated code."""
    bench = await serve(reflection=True, public=True)

    def stranger() -> tuple[list[str], list[str], list[str]]:
        with grpc.insecure_channel(bench.target) as channel:
            told = ProtoReflectionDescriptorDatabase(channel)
            names = list(told.get_services())
            generate = DescriptorPool(told).FindServiceByName(NAME).FindMethodByName("Generate")
            assert generate.server_streaming
            assert not generate.client_streaming
            request, response = (
                GetMessageClass(generate.input_type),
                GetMessageClass(generate.output_type),
            )
            call = channel.unary_stream(
                f"/{NAME}/Generate",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            answers = [answer.text for answer in call(request(prompt="count 3 0"), timeout=60)]
            return names, [field.name for field in generate.input_type.fields], answers

    names, fields, answers = await asyncio.to_thread(stranger)
    assert {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= set(names)
    assert fields == [field.name for field in pb.GenerateRequest.DESCRIPTOR.fields]
    assert answers == ["0", "1", "2"]


async def test_health_says_who_serves(serve):
    bench = await serve()
    async with bench.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel.raw)
        for service in ("", NAME, "grpc.health.v1.Health"):
            assert (
                await stub.Check(health_pb2.HealthCheckRequest(service=service))
            ).status == SERVING
        bench.server.health.set_serving(serving=False, service=NAME)
        assert (await stub.Check(health_pb2.HealthCheckRequest(service=NAME))).status == NOT_SERVING
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as told:
            await stub.Check(health_pb2.HealthCheckRequest(service="a.B"))
        assert told.value.code() is grpc.StatusCode.NOT_FOUND


async def test_two_watchers_see_every_change_and_one_that_leaves_does_not_deafen_the_other(serve):
    bench = await serve()
    async with bench.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel.raw)
        first, second = (stub.Watch(health_pb2.HealthCheckRequest(service=NAME)) for _ in range(2))
        assert (await first.read()).status == (await second.read()).status == SERVING
        first.cancel()
        for serving, status in ((False, NOT_SERVING), (True, SERVING)):
            bench.server.health.set_serving(serving=serving)
            assert (await asyncio.wait_for(second.read(), 30)).status == status
        await bench.server.stop(5)
        assert (await asyncio.wait_for(second.read(), 30)).status == NOT_SERVING


async def test_a_server_that_ends_finishes_32_live_streams_and_takes_no_new_call(serve, until):
    bench = await serve()
    async with bench.channel() as channel, bench.channel() as late:
        stub = rpc.GenerationServiceStub(channel.raw)
        watch = health_pb2_grpc.HealthStub(late.raw).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING

        async def read_all() -> list[str]:
            return [
                message.text
                async for message in channel.listen(
                    stub.Generate, pb.GenerateRequest(prompt="count 40 20")
                )
            ]

        readers = [asyncio.create_task(read_all()) for _ in range(32)]
        await until(lambda: bench.script.live == 32)
        stopping = asyncio.create_task(bench.server.stop(90))
        assert (await watch.read()).status == NOT_SERVING
        code = "client_gone"
        while (
            code == "client_gone"
        ):  # what gRPC itself says to a call that comes just when the server closes
            with pytest.raises(ConsiliumError) as told:
                await late.ask(
                    rpc.GenerationServiceStub(late.raw).CountTokens,
                    pb.CountTokensRequest(prompt="a"),
                    timeout_s=60,
                )
            code = told.value.code
        assert code == "upstream_down"
        answers = await asyncio.gather(*readers)
        with sooner_than(60.0, "nothing but the streams is waited for"):
            await stopping
    assert answers == [[str(number) for number in range(40)]] * 32


async def test_streams_that_outlive_the_grace_period_are_cut(serve):
    bench = await serve()
    async with bench.channel() as channel:
        stream = channel.listen(
            rpc.GenerationServiceStub(channel.raw).Generate,
            pb.GenerateRequest(prompt="count 50000 20"),
        )
        await anext(stream)
        await bench.server.stop(0.3)
        with pytest.raises(ConsiliumError):
            [_ async for _ in stream]
    assert bench.script.closed == 1


async def test_replicas_share_a_port_where_they_say_so_and_nobody_else_gets_it(serve):
    port = free_port()
    shared = [await serve(port=port, reuse_port=True) for _ in range(2)]
    assert [bench.server.port for bench in shared] == [port, port]
    with pytest.raises(ConsiliumError) as told:
        await serve(port=port)
    assert told.value.code == "port_taken"
    assert str(port) in told.value.public()
    await shared[0].server.stop(0)
    async with shared[1].channel() as channel:
        assert (
            await channel.ask(
                rpc.GenerationServiceStub(channel.raw).CountTokens,
                pb.CountTokensRequest(prompt="ab"),
            )
        ).tokens == 2
