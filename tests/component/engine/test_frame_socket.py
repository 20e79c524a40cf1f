"""Frames between two ends of one machine, over real abstract sockets: order, several calls on one connection, whoever does not read, whoever breaks off.

Each test runs on asyncio's loop and on uvloop, which Serve's replicas use (conftest.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from consilium.engine import frame_socket
from consilium.engine.frame_socket import SENT, Inbox, Landing, Line, Outlet
from consilium.kernel.errors import ConsiliumError

MIB = 2**20
LIMIT_S = 20


@pytest.fixture
async def landing() -> AsyncIterator[Landing]:
    made = Landing()
    yield made
    await made.aclose()


@pytest.fixture
async def outlet() -> AsyncIterator[Outlet]:
    made = Outlet()
    yield made
    made.close()
    await asyncio.sleep(0)


async def said(*items: bytes, error: Exception | None = None, after: asyncio.Event | None = None) -> AsyncGenerator[bytes, None]:
    """What Serve tells the caller."""
    for item in items:
        yield item
    if after is not None:
        await after.wait()
    if error is not None:
        raise error


async def opened(outlet: Outlet, inbox: Inbox) -> Line:
    line = await outlet.open(inbox.address)
    assert line is not None
    return line


async def read(inbox: Inbox) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return b"".join([item async for item in inbox])


async def test_many_calls_each_get_their_own_items_in_order_over_few_connections(landing: Landing, outlet: Outlet) -> None:
    async def call(number: int) -> bool:
        inbox = await landing.expect()
        inbox.follow(said(SENT))
        line = await opened(outlet, inbox)
        words = [f"{number}:{step};".encode() * (step + 1) for step in range(50)]

        async def replica() -> None:
            async with line:
                for word in words:
                    await line.send(word)
                    await asyncio.sleep(0)
                line.finish()

        sender = asyncio.ensure_future(replica())
        got = await read(inbox)
        await sender
        return got == b"".join(words)

    for _ in range(3):
        assert all(await asyncio.gather(*(call(number) for number in range(20))))
    assert sum(len(writers) for writers in outlet._idle.values()) <= 20
    assert landing._inboxes == {}


async def test_a_document_of_megabytes_and_a_call_without_items(landing: Landing, outlet: Outlet) -> None:
    whole = os.urandom(5 * MIB)
    for content in (whole, b""):
        inbox = await landing.expect()
        inbox.follow(said(SENT))
        line = await opened(outlet, inbox)

        async def replica(line: Line = line, content: bytes = content) -> None:
            async with line:
                await line.send(content)
                line.finish()

        sender = asyncio.ensure_future(replica())
        assert await read(inbox) == content
        await sender


async def test_whoever_does_not_read_makes_the_replica_wait_and_nobody_else(landing: Landing, outlet: Outlet) -> None:
    slow, quick = await landing.expect(), await landing.expect()
    lines = [await opened(outlet, inbox) for inbox in (slow, quick)]
    sent = 0

    async def flood() -> None:
        nonlocal sent
        async with lines[0] as line:
            for _ in range(1000):
                await line.send(b"x" * 16384)
                sent += 1
            line.finish()

    sender = asyncio.ensure_future(flood())
    async with lines[1] as line:
        await line.send(b"quick")
        line.finish()
    assert await read(quick) == b"quick"
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 200  # what one inbox and two sockets' buffers hold
    assert len(await read(slow)) == 1000 * 16384
    await sender


async def test_whoever_leaves_unread_does_not_hold_up_the_next_call_on_that_connection(landing: Landing, outlet: Outlet) -> None:
    left = await landing.expect()
    async with await opened(outlet, left) as line:
        flood = asyncio.ensure_future(line.send(b"x" * 4 * MIB))
        await asyncio.sleep(0.05)
        left.discard()
        await asyncio.wait_for(flood, LIMIT_S)
        line.finish()
    following = await landing.expect()
    async with await opened(outlet, following) as line:
        await line.send(b"next")
        line.finish()
    assert await read(following) == b"next"
    assert await read(left) == b""


async def test_a_break_is_what_serve_says_of_it(landing: Landing, outlet: Outlet) -> None:
    inbox, dead = await landing.expect(), asyncio.Event()
    inbox.follow(said(error=ConsiliumError("upstream_down", "killed"), after=dead))
    async with await opened(outlet, inbox) as line:
        await line.send(b"first")
    assert await anext(inbox) == b"first"
    asyncio.get_running_loop().call_later(0.1, dead.set)
    with pytest.raises(ConsiliumError, match="killed"):
        await read(inbox)


async def test_a_break_of_which_serve_says_nothing(landing: Landing, outlet: Outlet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.1)
    for follows in (True, False):
        inbox = await landing.expect()
        if follows:
            inbox.follow(said(after=asyncio.Event()))
        async with await opened(outlet, inbox) as line:
            await line.send(b"first")
        assert await anext(inbox) == b"first"
        with pytest.raises(ConsiliumError, match="connection to the replica broke"):
            await read(inbox)
        inbox.discard()


async def test_a_replica_that_says_it_sent_all_and_broke_off_is_believed_the_second(landing: Landing, outlet: Outlet) -> None:
    inbox = await landing.expect()
    inbox.follow(said(SENT))
    await asyncio.sleep(0.05)
    async with await opened(outlet, inbox) as line:
        await line.send(b"first")
    assert await anext(inbox) == b"first"
    with pytest.raises(ConsiliumError, match="upstream_down"):
        await read(inbox)


async def test_frames_that_come_through_serve_after_all_and_wait_for_the_reader(landing: Landing) -> None:
    inbox, given = await landing.expect(), 0

    async def many() -> AsyncGenerator[bytes, None]:
        nonlocal given
        for _ in range(200):
            given += 1
            yield b"y" * 16384

    inbox.follow(many())
    await asyncio.sleep(0.05)
    assert given < 30
    assert len(await read(inbox)) == 200 * 16384


async def test_an_error_before_the_first_item_keeps_the_connection(landing: Landing, outlet: Outlet) -> None:
    inbox = await landing.expect()
    inbox.follow(said(error=ConsiliumError("queue_full", name="core")))
    async with await opened(outlet, inbox):
        pass
    with pytest.raises(ConsiliumError, match="queue_full"):
        await read(inbox)
    assert sum(len(writers) for writers in outlet._idle.values()) == 1


async def test_what_cannot_be_reached_is_tried_once(landing: Landing, outlet: Outlet, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = await landing.expect()
    await landing.aclose()
    assert await outlet.open("") is None
    assert await outlet.open(inbox.address) is None
    monkeypatch.setattr(frame_socket, "_connected", None)
    assert await outlet.open(inbox.address) is None


async def test_a_connection_that_ended_while_it_was_idle_is_not_used(landing: Landing, outlet: Outlet) -> None:
    inbox = await landing.expect()
    async with await opened(outlet, inbox) as line:
        line.finish()
    assert await read(inbox) == b""
    for writers in outlet._idle.values():
        for writer in writers:
            writer.close()
    again = await landing.expect()
    async with await opened(outlet, again) as line:
        await line.send(b"again")
        line.finish()
    assert await read(again) == b"again"


async def test_a_ticket_that_nobody_waits_for_reaches_nobody(landing: Landing, outlet: Outlet) -> None:
    inbox = await landing.expect()
    name, _, _ = inbox.address.partition("/")
    line = await outlet.open(f"{name}/{'00' * 16}")
    assert line is not None
    async with line:
        await line.send(b"z" * MIB)
        line.finish()
    async with await opened(outlet, inbox) as line:
        await line.send(b"mine")
        line.finish()
    assert await read(inbox) == b"mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_of_the_machine_is_shown_the_door(landing: Landing) -> None:
    inbox = await landing.expect()
    name, _, ticket = inbox.address.partition("/")
    program = f"""
import os, socket
os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.connect("\\0{name}")
try:
    s.sendall(bytes.fromhex("{ticket}") + (5).to_bytes(4) + b"wrong")
    print(s.recv(1))
except OSError:
    print(b"")
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert out.strip() == b"b''"
    assert not inbox._items


async def test_where_there_are_no_such_sockets_all_goes_through_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def none(*_args: object, **_more: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_server", none)
    landing = Landing()
    inbox = await landing.expect()
    assert inbox.address == ""
    inbox.follow(said(b"a", b"b"))
    assert await read(inbox) == b"ab"
    await landing.aclose()


async def test_a_cut_in_the_middle_of_an_item_is_no_item(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.05)
    inbox = await landing.expect()
    name, _, ticket = inbox.address.partition("/")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(f"\0{name}")
        for byte in bytes.fromhex(ticket) + (3).to_bytes(4) + b"abc" + (9).to_bytes(4) + b"ab":
            raw.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await anext(inbox) == b"abc"
    with pytest.raises(ConsiliumError):
        await read(inbox)
