"""Rooms' gRPC methods through the gateway, against the greeter as a process."""

import re
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from tests.component.gateway.greeter import TOKEN
from tests.greeter import greeter_pb2 as pb
from tests.greeter import greeter_pb2_grpc as rpc
from tests.greeter.room import READ, ROOM, WRITE

from consilium.gateway.forwarding import Reached
from consilium.kernel.calls import ERROR_KEY, FIELDS_KEY, REQUEST_ID_KEY, RETRY_KEY
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_reflection import NAMES
from consilium.kernel.principals import ADMIN, PRINCIPAL_KEY, TOKEN_KEY, Principal, sign

SERVICE = "tests.greeter.GreeterService"


def stub(channel):
    return rpc.GreeterServiceStub(channel.raw)


def bearer(key: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"), *more)


async def test_a_method_is_handed_on_for_the_key_that_asks(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(name="ann's", scopes=frozenset({READ}), tenant="lab", owner="ann")
    channel = bench.channel(key)
    answer = await stub(channel).Greet(
        pb.GreetRequest(), timeout=60, metadata=bearer(key, (REQUEST_ID_KEY, "mine-1"))
    )
    assert answer.text == "Hello, ann's"
    assert (answer.key_id, answer.tenant, list(answer.scopes)) == (key.split("_")[1], "lab", [READ])
    assert answer.request_id == "mine-1"
    assert 0 < answer.rest_s < 60


async def test_the_trace_of_a_caller_is_handed_on_and_one_that_is_none_begins_anew(
    gateway, greeter
):
    bench = await gateway(rooms=[greeter.reached])
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    key = await bench.new_key(scopes=frozenset({READ}))
    greet = stub(bench.channel(key)).Greet
    told = bearer(key, ("traceparent", parent), ("tracestate", "vendor=one"))
    answer = await greet(pb.GreetRequest(), timeout=60, metadata=told)
    assert (answer.traceparent, answer.tracestate) == (parent, "vendor=one")
    wrong = bearer(key, ("traceparent", parent.upper()))
    answer = await greet(pb.GreetRequest(), timeout=60, metadata=wrong)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.traceparent)
    assert "ab" * 16 not in answer.traceparent.lower()


async def test_a_stream_is_handed_on(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(scopes=frozenset({READ}))
    count = stub(bench.channel(key)).Count(
        pb.CountRequest(numbers=500), timeout=60, metadata=bearer(key)
    )
    assert [answer.number async for answer in count] == list(range(500))


@pytest.mark.parametrize(
    ("scopes", "method", "code"),
    [
        ({READ}, "Order", "forbidden"),
        ({"generate"}, "Greet", "forbidden"),
        ({WRITE}, "Order", None),
        ({WRITE}, "Greet", None),
        ({ADMIN}, "Order", None),
    ],
)
async def test_each_method_has_its_scope(gateway, greeter, scopes, method, code):
    bench = await gateway(rooms=[greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset(scopes)))
    request = pb.OrderRequest() if method == "Order" else pb.GreetRequest()
    asking = channel.ask(getattr(stub(channel), method), request)
    if code is None:
        await asking
        return
    with pytest.raises(ConsiliumError) as caught:
        await asking
    assert caught.value.code == code


async def test_what_is_shown_from_outside_opens_nothing(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    key = await bench.new_key(scopes=frozenset({READ}))
    forged = sign(Principal("000000000000", "boss", frozenset({ADMIN})), TOKEN, time.time())
    greet = stub(bench.channel(key)).Greet

    async def code(*metadata: tuple[str, str]) -> str:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await greet(pb.GreetRequest(), timeout=60, metadata=metadata)
        return dict(caught.value.trailing_metadata())[ERROR_KEY]

    assert await code() == "unauthenticated"
    assert await code((PRINCIPAL_KEY, forged)) == "unauthenticated"
    assert await code(("authorization", "Bearer csl_000000000000_" + "0" * 48)) == "unauthenticated"
    assert await code(*bearer(key, (TOKEN_KEY, "guessed"))) == "unauthenticated"
    # The token alone is no key: rooms are asked directly inside, not through the face.
    assert await code((TOKEN_KEY, TOKEN)) == "unauthenticated"
    answer = await greet(
        pb.GreetRequest(), timeout=60, metadata=bearer(key, (PRINCIPAL_KEY, forged))
    )
    assert answer.key_id == key.split("_")[1]


@pytest.mark.parametrize("code", ["conflict", "rate_limited", "data_damaged", "queue_full"])
async def test_an_error_of_the_room_comes_through(gateway, greeter, code):
    bench = await gateway(rooms=[greeter.reached])
    directly = grpc.aio.insecure_channel(greeter.reached.grpc)
    told = []
    for channel, metadata in (
        (directly, ((TOKEN_KEY, TOKEN),)),
        (bench.channel().raw, bearer(await bench.new_key(scopes=frozenset({READ})))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rpc.GreeterServiceStub(channel).Fail(
                pb.FailRequest(code=code), timeout=60, metadata=metadata
            )
        trailing = dict(caught.value.trailing_metadata())
        kept = {name: trailing.get(name) for name in (ERROR_KEY, FIELDS_KEY, RETRY_KEY)}
        told.append((caught.value.code(), caught.value.details(), kept))
    await directly.close()
    assert told[0] == told[1]


@pytest.mark.parametrize("method", ["Greet", "Count"])
async def test_a_room_that_refuses_the_gateway_is_down(gateway, greeter, log_lines, method):
    bench = await gateway(rooms=[greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    object.__setattr__(bench.public._proxy._forwarding, "token", "another")
    for _ in range(2):
        asking = (
            channel.ask(stub(channel).Greet, pb.GreetRequest())
            if method == "Greet"
            else anext(channel.listen(stub(channel).Count, pb.CountRequest(numbers=3)))
        )
        with pytest.raises(ConsiliumError) as caught:
            await asking
        assert caught.value.code == "upstream_down"
        assert ROOM.name in caught.value.public()
    assert sum(line["event"] == "room_refuses_us" for line in log_lines) == 1


async def test_what_a_room_did_not_expect_leaks_nothing(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Fail, pb.FailRequest(code="unexpected"))
    assert caught.value.code == "internal"
    assert "hunter2" not in str(caught.value)


async def test_a_deadline_reaches_the_room_before_the_caller(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Sleep, pb.SleepRequest(milliseconds=30_000), timeout_s=0.5)
    assert caught.value.code == "deadline"


async def test_a_caller_that_leaves_ends_the_rooms_call(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    key = await bench.new_key(scopes=frozenset({READ}))
    slow = pb.CountRequest(numbers=100_000, pause_ms=20)
    call = stub(bench.channel(key)).Count(slow, timeout=60, metadata=bearer(key))
    await call.read()
    assert bench.grpc.running == 1
    call.cancel()
    await bench.until(lambda: bench.grpc.running == 0)
    own_greeter.ends_idle()


async def test_a_room_that_is_down_is_named_and_comes_back(gateway, own_greeter):
    bench = await gateway(rooms=[own_greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    health = health_pb2_grpc.HealthStub(channel.raw)

    async def serves() -> bool:
        told = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        return bool(told.status == health_pb2.HealthCheckResponse.SERVING)

    async def is_down() -> bool:
        return not await serves()

    own_greeter.kill()
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Greet, pb.GreetRequest())
    assert caught.value.code == "upstream_down"
    assert "greeter" in caught.value.public()
    assert caught.value.retry_after_s is not None
    await bench.eventually(is_down)
    own_greeter.start()
    await bench.eventually(serves)
    assert (await channel.ask(stub(channel).Greet, pb.GreetRequest())).calls == 1


async def test_a_room_without_an_address_is_down(gateway):
    bench = await gateway(rooms=[Reached(ROOM)])
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Greet, pb.GreetRequest())
    assert caught.value.code == "upstream_down"


async def test_a_method_that_is_not_in_the_row_is_not_handed_on(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached])
    channel = bench.channel(await bench.new_key(scopes=frozenset({ADMIN})))
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Relay, pb.RelayRequest())
    assert caught.value.code == "not_supported"
    assert "Relay" in caught.value.public()
    tables = channel.raw.unary_unary("/consilium.v1.TableService/WatchTable")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await tables(b"", timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused(gateway, greeter):
    bench = await gateway(rooms=[greeter.reached], max_body_bytes=4096)
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Greet, pb.GreetRequest(name="x" * 5000))
    assert caught.value.code == "body_too_large"
    assert "gateway.max_body_bytes allows 4096" in caught.value.public()


async def test_a_limit_that_is_raised_holds_for_rooms_too(gateway, own_greeter):
    raised = 20 << 20
    own_greeter.kill()
    own_greeter.sections["gateway"] = {"max_body_bytes": raised}
    own_greeter.start()
    bench = await gateway(rooms=[own_greeter.reached], max_body_bytes=raised)
    channel = bench.channel(await bench.new_key(scopes=frozenset({READ})))
    name = "x" * (15 << 20)
    assert (await channel.ask(stub(channel).Greet, pb.GreetRequest(name=name))).text.endswith(name)
    with pytest.raises(ConsiliumError) as caught:
        await channel.ask(stub(channel).Greet, pb.GreetRequest(name="x" * (raised + 1)))
    assert caught.value.code == "body_too_large"


@pytest.mark.parametrize("version", NAMES)
async def test_reflection_shows_what_is_public_and_nothing_else(gateway, greeter, version):
    bench = await gateway(rooms=[greeter.reached])
    ask = bench.channel().raw.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    async def told(**question: str) -> reflection_pb2.ServerReflectionResponse:
        call = ask(iter([reflection_pb2.ServerReflectionRequest(**question)]), timeout=60)
        return await call.read()

    listed = {one.name for one in (await told(list_services="")).list_services_response.service}
    assert listed == {
        "consilium.v1.GenerationService",
        SERVICE,
        "grpc.health.v1.Health",
        *NAMES,
    }
    for name in listed:
        assert (await told(file_containing_symbol=name)).HasField("file_descriptor_response")
    for name in (f"{SERVICE}.Relay", "consilium.v1.TurnService", "consilium.v1.TableService"):
        assert (await told(file_containing_symbol=name)).HasField("error_response"), name
