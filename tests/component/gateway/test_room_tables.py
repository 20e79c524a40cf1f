"""Tables of a real room on a real socket, followed by the gateway and told in receipts."""

import asyncio

from tests.component.gateway.test_turn_steps import said
from tests.greeter.room import ROOM

from consilium.gateway.room_tables import followers
from consilium.kernel import table_service
from consilium.kernel.clock import SystemClock
from consilium.kernel.grpc_server import GrpcServer, Settings
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.service_config import Address
from consilium.kernel.tables import Table

TOKEN = "t" * 32


async def room(table: Table, port: int = 0) -> GrpcServer:
    server = GrpcServer(
        Settings(port=port),
        [table_service.service(table_service.TableServicer([table]))],
        authenticate=InnerAuth(TOKEN, SystemClock()),
    )
    await server.start()
    return server


async def test_a_room_that_is_down_leaves_its_last_table(gateway):
    table = Table("greetings")
    table.put("en", {"word": "Hello"})
    server = await room(table)
    address = Address(grpc=f"127.0.0.1:{server.port}")
    found = followers([ROOM], {"greeter": address}, TOKEN, SystemClock())
    bench = await gateway(followed=found)
    following = [asyncio.create_task(each.run()) for each in found.values()]
    try:
        greetings = found["greetings"]
        await bench.until(lambda: greetings.is_live)
        assert greetings.rows["en"]["word"] == "Hello"
        receipt = (await said(bench))["consilium"]["receipt"]
        assert receipt["tables"] == {"greetings": f"version {greetings.version}"}
        await server.stop(0)
        await bench.until(lambda: not greetings.is_live)
        receipt = (await said(bench))["consilium"]["receipt"]
        assert receipt["tables"]["greetings"].endswith(" s old")
        assert greetings.rows["en"]["word"] == "Hello"
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        await server.stop(0)


async def test_a_room_without_an_address_is_not_followed(gateway):
    assert followers([ROOM], {}, TOKEN, SystemClock()) == {}
