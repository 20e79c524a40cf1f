"""A real room as a process, from its start to its end: what it serves, how it drains, with which number it ends."""

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.greeter import greeter_pb2 as pb
from tests.greeter import greeter_pb2_grpc as rpc
from tests.greeter.running import TOKEN, Running
from tests.waiting import LIMIT_S, until_true

from consilium.kernel import trace_context
from consilium.kernel.catalogue import ROWS
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import Principal
from consilium.kernel.table_client import TableFollower

ANNA = Principal("k1", "Анна", frozenset({"greeter.read"}), "lab", "anna")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def greeter(tmp_path):
    running = Running(tmp_path)
    yield running
    running.end()


@pytest.fixture
async def up(greeter):
    return await greeter.start().until_up()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One greeter for all tests that leave it as it was."""
    running = Running(tmp_path_factory.mktemp("greeter")).start()
    asyncio.run(running.until_up())
    yield running
    running.end()


async def test_it_serves_grpc_http_tables_health_and_a_page_and_ends_well(up):
    async with up.channel() as channel, httpx.AsyncClient(timeout=60) as client:
        stub = rpc.GreeterServiceStub(channel.raw)
        told = await channel.ask(stub.Greet, pb.GreetRequest(), principal=ANNA, timeout_s=60)
        assert (told.text, told.key_id, told.tenant) == ("Hello, Анна", "k1", "lab")
        assert told.scopes == ["greeter.read"]
        assert 0 < told.rest_s <= 60
        health = health_pb2_grpc.HealthStub(channel.raw)
        for name in ("", "tests.greeter.GreeterService", "consilium.v1.TableService"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert (await health.Check(request)).status == SERVING
        follower = TableFollower(up.channel, "greetings")
        following = asyncio.create_task(follower.run())
        await asyncio.wait_for(follower.wait_first(), 60)
        assert dict(follower.rows["Анна"]) == {"by": "k1", "calls": 1}
        following.cancel()
        asks = await client.get(up.url("/v1/greeter/whoami"), headers=up.headers(ANNA))
        assert (asks.json()["key_id"], asks.json()["owner"]) == ("k1", "anna")
        for port in (up.metrics, up.http):
            page = (await client.get(up.url("/metrics", port))).text
            assert 'consilium_room_up{room="greeter"} 1.0' in page
            assert 'method="Greet",room="greeter"} 1.0' in page.replace(
                'code="OK",method="Greet"', 'method="Greet"'
            )
        assert 'consilium_room_http_seconds_count{code="200",method="GET"' in page
    up.tell(signal.SIGTERM)
    assert await up.ended() == 0
    assert "Traceback" not in up.log


async def test_a_call_goes_on_to_the_next_service_for_the_same_principal(up):
    async with up.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        trace = trace_context.new()
        with trace_context.entered(trace):
            relayed = await channel.ask(
                stub.Relay, pb.RelayRequest(greet=pb.GreetRequest()), principal=ANNA, timeout_s=60
            )
        assert relayed.greeting.key_id == "k1"
        assert relayed.greeting.traceparent == trace.headers()["traceparent"]
        assert relayed.greeting.rest_s < 60
        direct = await channel.ask(stub.Relay, pb.RelayRequest())
        assert direct.greeting.text == "Hello, cluster"
        assert list(direct.greeting.scopes) == ["admin"]


async def test_what_may_not_be_repeated_is_called_once_and_the_rest_up_to_three_times(up):
    async with up.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        for method, away, asked, calls in (
            (stub.Order, pb.OrderRequest(away=True), pb.OrderRequest(), 2),
            (stub.Greet, pb.GreetRequest(away=True), pb.GreetRequest(), 4),
        ):
            with pytest.raises(ConsiliumError) as told:
                await channel.ask(method, away)
            assert told.value.code == "upstream_down"
            assert (await channel.ask(method, asked)).calls == calls


@pytest.mark.parametrize("code", [row.code for row in ROWS])
async def test_each_error_means_the_same_over_grpc_and_inner_http(shared, code):
    async with shared.channel() as channel, httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(rpc.GreeterServiceStub(channel.raw).Fail, pb.FailRequest(code=code))
        assert told.value.code == code
        answer = await client.get(
            shared.url(f"/v1/greeter/fail?code={code}"), headers=shared.headers()
        )
        assert answer.status_code == told.value.row.http
        assert answer.json()["error"]["code"] == code
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-request-id"]


async def test_what_nobody_expected_tells_the_request_id_alone(shared):
    async with shared.channel() as channel, httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(ConsiliumError) as told:
            await channel.ask(
                rpc.GreeterServiceStub(channel.raw).Fail, pb.FailRequest(code="unexpected")
            )
        answer = await client.get(
            shared.url("/v1/greeter/fail?code=unexpected"),
            headers={**shared.headers(), "x-request-id": "r-9"},
        )
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].endswith("Request id: r-9.")
    assert "hunter2" not in answer.text + str(told.value)


async def test_running_calls_finish_no_new_one_begins_and_watchers_are_told(greeter):
    greeter.stop_s = 90.0
    up = await greeter.start().until_up()
    async with up.channel() as channel, httpx.AsyncClient(timeout=LIMIT_S) as client:
        stub = rpc.GreeterServiceStub(channel.raw)
        watch = health_pb2_grpc.HealthStub(channel.raw).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        count = channel.listen(stub.Count, pb.CountRequest(numbers=40, pause_ms=25))
        assert (await anext(count)).number == 0
        sleeping = asyncio.create_task(
            channel.ask(stub.Sleep, pb.SleepRequest(milliseconds=1000), timeout_s=60)
        )
        lines = client.stream("GET", up.url("/v1/greeter/stream?pieces=100"), headers=up.headers())
        async with lines as answer:
            texts = answer.aiter_text()
            first = await anext(texts)
            await asyncio.sleep(0.1)
            up.tell(signal.SIGTERM)
            assert (await asyncio.wait_for(watch.read(), 60)).status == NOT_SERVING
            rest = "".join([text async for text in texts])
        assert (first + rest).split() == [str(number) for number in range(100)]
        assert [message.number async for message in count] == list(range(1, 40))
        await sleeping
        assert await up.ended() == 0


async def test_what_outlives_the_grace_period_is_cut_and_the_process_still_ends_well(up):
    async with up.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        endless = channel.listen(stub.Count, pb.CountRequest(numbers=100_000, pause_ms=50))
        await anext(endless)
        began = time.monotonic()
        up.tell(signal.SIGTERM)
        with pytest.raises(ConsiliumError):
            [_ async for _ in endless]
        assert await up.ended() == 0
    assert time.monotonic() - began > 3, "its row gives it 5 s"


async def test_a_second_signal_ends_it_at_once(greeter):
    greeter.stop_s = 90.0
    up = await greeter.start().until_up()
    async with up.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        endless = channel.listen(stub.Count, pb.CountRequest(numbers=100_000, pause_ms=50))
        await anext(endless)
        up.tell(signal.SIGTERM)
        await until_true(lambda: "process_stopping" in up.log)
        up.tell(signal.SIGTERM)
        assert await up.ended() == 128 + signal.SIGTERM, "one that was waited for ends with 0"
        with pytest.raises(ConsiliumError):
            [_ async for _ in endless]


async def test_work_is_not_taken_any_more_once_the_cluster_drains_though_calls_are_served(up):
    async with httpx.AsyncClient(timeout=60) as client, up.channel() as channel:

        async def claims() -> dict:
            url = up.url("/v1/greeter/claims")
            return (await client.get(url, headers=up.headers())).json()

        assert not (await claims())["draining"]
        (up.folder / "draining").touch()
        async with asyncio.timeout(LIMIT_S):
            while not (await claims())["draining"]:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.01)
        before = (await claims())["taken"]
        await asyncio.sleep(0.1)
        assert (await claims())["taken"] == before
        stub = rpc.GreeterServiceStub(channel.raw)
        assert (await channel.ask(stub.Greet, pb.GreetRequest(name="x"))).text == "Hello, x"


async def test_killed_and_started_again_it_is_the_same_to_its_callers(up):
    follower = TableFollower(up.channel, "greetings")
    following = asyncio.create_task(follower.run())
    await asyncio.wait_for(follower.wait_first(), 60)
    epoch = follower.held.epoch
    async with up.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        await channel.ask(stub.Greet, pb.GreetRequest(name="before"))
        up.end()
        await up.start().until_up()
        async with asyncio.timeout(LIMIT_S):
            while True:  # for a second at most, the channel does not look whether it is back
                with suppress(ConsiliumError):
                    told = await channel.ask(stub.Greet, pb.GreetRequest(name="after"))
                    break
        assert told.calls == 1
    await until_true(lambda: follower.rows.keys() == {"after"})
    assert follower.held.epoch != epoch
    following.cancel()


@pytest.mark.parametrize(
    ("break_it", "code", "sentence"),
    [
        (lambda it: (it.folder / "token").unlink(), 64, "CONSILIUM_TOKEN: the internal token"),
        (lambda it: it.write_config(services={}), 64, "services.greeter.grpc: nothing says where"),
        (lambda it: it.write_config(greeter={"wrod": "Hi"}), 64, "greeter.wrod"),
        (lambda it: (it.folder / "config.json").write_text("{"), 64, "not JSON"),
        (lambda it: setattr(it, "words", ("--listen", "nowhere")), 64, "'nowhere' is no address"),
        (lambda it: (it.folder / "greeter_fault").write_text("refuse"), 78, "a test wants it so"),
        (lambda it: (it.folder / "greeter_fault").write_text("break"), 1, "RuntimeError"),
    ],
)
async def test_what_keeps_it_from_starting_has_a_number_and_a_sentence(
    greeter, break_it, code, sentence
):
    break_it(greeter)
    assert await greeter.start().ended() == code
    assert sentence in greeter.log
    assert "never awaited" not in greeter.log


@pytest.mark.parametrize("port", ["grpc", "http", "metrics"])
async def test_a_port_that_is_taken_ends_it_with_its_number(greeter, port):
    number = getattr(greeter, port)
    with socket.create_server(("127.0.0.1", number)):
        assert await greeter.start().ended() == 67
    assert f"{number}" in greeter.log
    assert "never awaited" not in greeter.log


async def test_while_it_starts_its_page_says_so_and_a_signal_ends_it(greeter):
    (greeter.folder / "greeter_fault").write_text("hang")
    greeter.start()
    async with httpx.AsyncClient(timeout=60) as client:
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    answer = await client.get(greeter.url("/healthz", greeter.metrics))
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
    assert (answer.status_code, answer.text) == (503, "starting\n")
    greeter.tell(signal.SIGTERM)
    assert await greeter.ended() == 0


async def test_yaml_and_flags_do_as_well_as_the_resolved_tree(greeter):
    (greeter.folder / "config.json").unlink()
    (greeter.folder / "consilium.yaml").write_text("model: demo\ngreeter: {word: Привет}\n")
    greeter.words = (
        *("--config", str(greeter.folder / "consilium.yaml")),
        *("--listen", f"127.0.0.1:{greeter.grpc}"),
        *("--metrics", f"127.0.0.1:{greeter.metrics}"),
    )
    await greeter.start().until_up()
    async with greeter.channel() as channel:
        stub = rpc.GreeterServiceStub(channel.raw)
        assert (await channel.ask(stub.Greet, pb.GreetRequest(name="x"))).text == "Привет, x"
    async with httpx.AsyncClient(timeout=60) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(greeter.url("/healthz"))


async def test_it_may_open_as_many_files_as_it_is_allowed_to(up):
    lines = await asyncio.to_thread(Path(f"/proc/{up.process.pid}/limits").read_text)
    limits = next(line.split() for line in lines.splitlines() if line.startswith("Max open files"))
    assert limits[3] == limits[4]
    assert os.readlink(f"/proc/{up.process.pid}/cwd") == str(up.folder)
    assert TOKEN not in up.log
