"""Ten thousand messages that nobody meant: whatever comes, the fault is the caller's, and the room goes on."""

import asyncio
import random

import grpc
import pytest
from tests.greeter import greeter_pb2 as pb
from tests.greeter import greeter_pb2_grpc as rpc
from tests.greeter.running import TOKEN, Running

from consilium.kernel.principals import TOKEN_KEY
from consilium.v1 import tables_pb2

MESSAGES = 10_000
AT_ONCE = 64
TIMEOUT_S = 0.2
VALID = {
    "/tests.greeter.GreeterService/Greet": [pb.GreetRequest(name="Анна"), pb.GreetRequest()],
    "/tests.greeter.GreeterService/Order": [pb.OrderRequest(item="tea"), pb.OrderRequest()],
    "/tests.greeter.GreeterService/Count": [pb.CountRequest(numbers=3), pb.CountRequest()],
    "/tests.greeter.GreeterService/Fail": [pb.FailRequest(code="conflict")],
    "/tests.greeter.GreeterService/Sleep": [pb.SleepRequest(milliseconds=1)],
    "/tests.greeter.GreeterService/Relay": [pb.RelayRequest(greet=pb.GreetRequest(name="b"))],
    "/consilium.v1.TableService/WatchTable": [
        tables_pb2.WatchTableRequest(name="greetings", epoch="x", version=-5),
        tables_pb2.WatchTableRequest(name="nobody's"),
    ],
}
STREAMS = {"Count", "WatchTable"}


def messages(dice: random.Random, valid: list[bytes], count: int) -> list[bytes]:
    """Return bytes out of nothing, and valid messages of which something was changed."""
    made = []
    for _ in range(count):
        raw = bytearray(dice.choice(valid))
        match dice.randrange(5):
            case 0:
                raw = bytearray(dice.randbytes(dice.choice((0, 1, 7, 64, 2000))))
            case 1:
                for _ in range(dice.randint(1, 4)):
                    raw.insert(dice.randint(0, len(raw)), dice.randrange(256))
            case 2 if raw:
                raw[dice.randrange(len(raw))] = dice.randrange(256)
            case 3:
                del raw[dice.randint(0, len(raw)) :]
            case _:
                raw += dice.choice(valid)[: dice.randrange(20)] + dice.randbytes(dice.randrange(6))
        made.append(bytes(raw))
    return made


@pytest.fixture
async def greeter(tmp_path):
    running = await Running(tmp_path).start().until_up()
    yield running
    running.end()


async def code_of(channel: grpc.aio.Channel, method: str, raw: bytes) -> str:
    metadata = ((TOKEN_KEY, TOKEN),)
    try:
        if method.rpartition("/")[2] in STREAMS:
            call = channel.unary_stream(method)(raw, timeout=TIMEOUT_S, metadata=metadata)
            await call.read()
            call.cancel()
            return "OK"
        await channel.unary_unary(method)(raw, timeout=TIMEOUT_S, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def test_ten_thousand_messages_to_the_methods_and_no_fault_of_ours(greeter):
    dice = random.Random(20_261_127)
    work = [
        (method, raw)
        for method, valid in VALID.items()
        for raw in messages(
            dice, [message.SerializeToString() for message in valid], MESSAGES // len(VALID) + 1
        )
    ]
    dice.shuffle(work)
    codes: dict[str, int] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{greeter.grpc}") as channel:

        async def worker() -> None:
            while work:
                code = await code_of(channel, *work.pop())
                codes[code] = codes.get(code, 0) + 1

        await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    assert "INTERNAL" not in codes, codes
    assert "UNKNOWN" not in codes, codes
    assert sum(codes.values()) >= MESSAGES
    assert min(codes["OK"], codes["INVALID_ARGUMENT"]) > MESSAGES // 10, codes
    async with greeter.channel() as ours:
        told = await ours.ask(rpc.GreeterServiceStub(ours.raw).Greet, pb.GreetRequest(name="x"))
    assert told.text == "Hello, x"
    assert "Traceback" not in greeter.log
