"""What is called again while a service is away, and what never is; how long a call inside may take."""

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.idempotent import OURS, method_config, methods
from consilium.kernel.rooms import Room
from consilium.v1 import generation_pb2 as pb
from consilium.v1 import generation_pb2_grpc as rpc

AWAY = {"away": ConsiliumError("upstream_down", name="core", retry_after_s=2)}


async def test_generate_is_called_once_and_a_method_that_may_be_repeated_up_to_three_times(serve):
    bench = await serve()
    bench.script.raises = AWAY
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for call, tries in (
            (lambda: channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="away")), 3),
            (lambda: anext(channel.listen(stub.Generate, pb.GenerateRequest(prompt="away"))), 1),
        ):
            bench.script.seen.clear()
            with pytest.raises(ConsiliumError) as told:
                await call()
            assert told.value.code == "upstream_down"
            assert len(bench.script.seen) == tries


async def test_a_channel_repeats_what_it_is_told_and_nothing_where_it_is_told_nothing(serve):
    bench = await serve()
    bench.script.raises = AWAY
    for idempotent, tries in (((), 1), (("/consilium.v1.GenerationService/CountTokens",), 3)):
        async with bench.channel(idempotent=idempotent) as channel:
            bench.script.seen.clear()
            with pytest.raises(ConsiliumError):
                await channel.ask(
                    rpc.GenerationServiceStub(channel.raw).CountTokens,
                    pb.CountTokensRequest(prompt="away"),
                )
            assert len(bench.script.seen) == tries


async def test_a_call_inside_may_take_a_day_and_no_longer(serve):
    bench = await serve()
    async with bench.channel() as channel:
        stub = rpc.GenerationServiceStub(channel.raw)
        for day_s in (86_400, 86_399.9, 86_301, 43_201):  # gRPC rounds some of them up
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"), timeout_s=day_s)
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(stub.CountTokens, pb.CountTokensRequest(prompt="a"), timeout_s=90_000)
    assert told.value.code == "invalid_request"
    assert "86400 s" in told.value.public()


def test_the_table_holds_our_methods_and_those_of_the_rooms_and_each_name_once():
    room = Room("a", "a.app", idempotent=frozenset({"/a.B/Get", "/grpc.health.v1.Health/Check"}))
    found = methods([room])
    assert found == OURS | {"/a.B/Get"}
    assert not any(name.endswith(("/Generate", "/GenerateFrom", "/Submit")) for name in OURS)
    (config,) = method_config(found)
    assert {"service": "a.B", "method": "Get"} in config["name"]
    assert len(config["name"]) == len(found)
    assert method_config([]) == []


def test_a_method_of_the_table_is_one_of_a_proto():
    from grpc_health.v1 import health_pb2

    from consilium.v1 import tables_pb2

    known = {
        f"/{service.full_name}/{method.name}"
        for file in (pb, tables_pb2, health_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert known >= OURS
