"""Tables over real sockets: changes, a room that ends and comes back, one that hangs, a follower that lags."""

import asyncio
import time

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.grpc_server import GrpcServer, Settings
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.ports import free_port
from consilium.kernel.principals import ANYONE
from consilium.kernel.table_client import TableFollower
from consilium.kernel.table_service import TableServicer, service
from consilium.kernel.tables import Table
from consilium.v1 import tables_pb2 as pb
from consilium.v1 import tables_pb2_grpc as rpc

TOKEN = "of-this-test"


class House:
    """A server with tables at a fixed port, and followers of it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.server: GrpcServer | None = None
        self.servicer: TableServicer | None = None
        self.tasks: list[asyncio.Task[None]] = []

    async def serve(self, *tables: Table, heartbeat_s: float = 5.0) -> None:
        self.servicer = TableServicer(tables, heartbeat_s=heartbeat_s)
        self.server = GrpcServer(
            Settings(port=self.port), [service(self.servicer)], authenticate=InnerAuth(TOKEN)
        )
        await self.server.start()

    async def end(self, grace_s: float = 0.0) -> None:
        await self.server.stop(grace_s)

    def channel(self) -> Channel:
        return Channel(f"127.0.0.1:{self.port}", name="room", token=TOKEN)

    def follow(self, name: str, **options) -> TableFollower:
        follower = TableFollower(self.channel, name, **options)
        self.tasks.append(asyncio.create_task(follower.run()))
        return follower

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        for result in await asyncio.gather(*self.tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        if self.server is not None:
            await self.server.stop(0)


@pytest.fixture
async def house():
    made = House()
    yield made
    await made.aclose()


async def test_a_follower_has_the_table_and_hears_of_each_change_at_once(house, until):
    table, heard = Table("greetings"), []
    table.put("a", {"n": 1})
    await house.serve(table)
    follower = house.follow(
        "greetings", on_change=lambda held, touched: heard.append((held.version, set(touched)))
    )
    assert (dict(follower.rows), follower.age_s, follower.is_live) == ({}, None, False)
    await asyncio.wait_for(follower.wait_first(), 60)
    assert follower.rows["a"]["n"] == 1
    kept = follower.held
    for number in range(20):
        table.change({"a": {"n": number}, f"b{number}": {}})
        await until(lambda: follower.version == table.version)
    assert len(follower.rows) == 21
    table.remove("a")
    await until(lambda: "a" not in follower.rows)
    assert heard[0] == (1, {"a"})
    assert heard[-1] == (table.version, {"a"})
    assert dict(kept.rows) == {"a": {"n": 1}}, "what somebody holds does not change under them"
    assert follower.is_live
    assert follower.age_s is not None


async def test_a_heartbeat_says_that_nothing_has_changed(house, until):
    table = Table("greetings")
    await house.serve(table, heartbeat_s=0.1)
    follower = house.follow("greetings", silence_s=100)
    await asyncio.wait_for(follower.wait_first(), 60)
    for _ in range(3):
        heard = time.monotonic() - follower.age_s
        await until(lambda heard=heard: time.monotonic() - follower.age_s > heard + 0.05)
    assert follower.is_live
    assert (follower.version, dict(follower.rows)) == (0, {})


async def test_a_change_in_the_moment_of_a_heartbeat_is_not_lost(house, until, monkeypatch):
    """The wait for a change is over, and the table changes before the stream goes on."""
    table = Table("greetings")
    waited = TableServicer._any

    async def late(self, changed):
        found = await waited(self, changed)
        if not found and table.version < 5:
            table.put(str(table.version), {})
        return found

    monkeypatch.setattr(TableServicer, "_any", late)
    await house.serve(table, heartbeat_s=0.05)
    follower = house.follow("greetings")
    await until(lambda: follower.version == 5)
    assert len(follower.rows) == 5


async def test_a_room_that_ends_leaves_its_last_table_and_comes_back_with_another_epoch(
    house, until
):
    first, second = Table("greetings"), Table("greetings")
    first.replace({"a": {"n": 1}, "b": {"n": 2}})
    await house.serve(first)
    follower = house.follow("greetings")
    await asyncio.wait_for(follower.wait_first(), 60)
    await house.end()
    await until(lambda: not follower.is_live)
    assert follower.rows.keys() == {"a", "b"}
    before = follower.age_s
    await asyncio.sleep(0.1)
    assert follower.age_s > before
    second.replace({"b": {"n": 2}, "c": {"n": 3}})
    await house.serve(second)
    await until(lambda: follower.rows.keys() == {"b", "c"})
    assert follower.is_live
    assert (follower.held.epoch, follower.version) == (second.epoch, 1)


async def test_a_follower_that_comes_back_to_the_same_epoch_is_sent_the_difference_only(
    house, until
):
    table, heard = Table("greetings"), []
    table.replace({str(number): {} for number in range(100)})
    await house.serve(table)
    follower = house.follow("greetings", on_change=lambda _, touched: heard.append(touched))
    await asyncio.wait_for(follower.wait_first(), 60)
    await house.end()
    await until(lambda: not follower.is_live)
    table.put("new", {})
    await house.serve(table)
    await until(lambda: "new" in follower.rows)
    assert [len(touched) for touched in heard] == [100, 1]


async def test_the_stream_ends_at_its_deadline_and_goes_on_without_a_gap(house, until):
    table = Table("greetings")
    await house.serve(table)
    follower = house.follow("greetings", stream_s=0.3)
    await asyncio.wait_for(follower.wait_first(), 60)
    for number in range(30):
        table.put(str(number), {})
        await asyncio.sleep(0.03)
        assert follower.is_live
    await until(lambda: len(follower.rows) == 30)


async def test_a_room_that_says_nothing_is_asked_anew(house, until):
    """It listens, and its heartbeat is slower than the follower's patience: as a process that was stopped."""
    table = Table("greetings")
    table.put("a", {})
    await house.serve(table, heartbeat_s=60)
    follower = house.follow("greetings", silence_s=0.3)
    await asyncio.wait_for(follower.wait_first(), 60)
    await until(lambda: not follower.is_live)
    table.put("b", {})
    await until(lambda: follower.rows.keys() == {"a", "b"})


async def test_a_room_that_drains_ends_its_streams_and_is_not_held_up_by_them(house, until):
    await house.serve(Table("greetings"))
    follower = house.follow("greetings")
    await asyncio.wait_for(follower.wait_first(), 60)
    house.servicer.close()
    await asyncio.wait_for(house.end(grace_s=600), 60)
    async with house.channel() as channel:
        watch = rpc.TableServiceStub(channel.raw).WatchTable
        with pytest.raises(ConsiliumError) as told:
            await anext(channel.listen(watch, pb.WatchTableRequest(name="greetings")))
    assert told.value.code == "upstream_down"


async def test_a_follower_that_lags_gets_the_last_rows_and_holds_up_neither_room_nor_others(
    house, until
):
    table = Table("greetings", remembered=50)
    await house.serve(table)
    quick = house.follow("greetings")
    await asyncio.wait_for(quick.wait_first(), 60)
    async with house.channel() as channel:
        watch = rpc.TableServiceStub(channel.raw).WatchTable
        slow = watch(
            pb.WatchTableRequest(name="greetings"),
            timeout=60,
            metadata=(("x-consilium-token", TOKEN),),
        )
        await slow.read()
        for number in range(300):
            table.change({str(row): {"n": number, "text": "x" * 400} for row in range(200)})
            await asyncio.sleep(0)
        await until(lambda: quick.version == table.version)
        got = 1
        while True:
            message = await asyncio.wait_for(slow.read(), 60)
            got += 1
            if message.version == table.version and not message.more:
                break
        assert got < 250, "what nobody has read yet is not queued change by change"
        slow.cancel()
    assert quick.rows["7"]["n"] == 299


async def test_ten_thousand_rows_arrive_and_one_more_costs_one_row(house, until):
    table = Table("greetings")
    table.replace(
        {f"row-{number}": {"n": number, "text": "привет " * 30} for number in range(10_000)}
    )
    await house.serve(table)
    touched = []
    follower = house.follow("greetings", on_change=lambda _, keys: touched.append(len(keys)))
    await asyncio.wait_for(follower.wait_first(), 30)
    assert len(follower.rows) == 10_000
    table.put("row-7", {"n": -1})
    await until(lambda: follower.rows["row-7"]["n"] == -1)
    assert touched == [10_000, 1]


async def test_a_callback_that_breaks_stops_nothing(house, until, _logs):
    table = Table("greetings")
    await house.serve(table)

    def broken(_held, _touched):
        raise ZeroDivisionError

    follower = house.follow("greetings", on_change=broken)
    await asyncio.wait_for(follower.wait_first(), 60)
    for key in "ab":
        table.put(key, {})
        await until(lambda key=key: key in follower.rows)
    assert sum(line["event"] == "table_change_broke" for line in _logs) == 2


async def test_a_table_that_is_not_there_and_a_principal_that_is_not_the_cluster(house):
    await house.serve(Table("greetings"), Table("others"))
    async with house.channel() as channel:
        watch = rpc.TableServiceStub(channel.raw).WatchTable
        for name, principal, code, words in (
            ("greeting", None, "invalid_request", "greetings, others"),
            ("greetings", ANYONE, "forbidden", "Only the cluster"),
        ):
            request = pb.WatchTableRequest(name=name)
            with pytest.raises(ConsiliumError) as told:
                await anext(channel.listen(watch, request, principal=principal))
            assert told.value.code == code
            assert words in told.value.public()


async def test_a_room_that_is_not_there_yet_is_waited_for(house, until, _logs):
    follower = house.follow("greetings")
    await until(lambda: any(line["event"] == "dependency_down" for line in _logs))
    assert not follower.is_live
    table = Table("greetings")
    table.put("a", {})
    await house.serve(table)
    await until(lambda: "a" in follower.rows)
    told = [line["event"] for line in _logs if line["event"].startswith("dependency")]
    assert told == ["dependency_down", "dependency_back"], "each change of state once"
