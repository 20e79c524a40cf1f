"""Frames between two ends of one machine, over real abstract sockets: order, many calls at once, whoever does not read, whoever breaks off.

Each test runs on asyncio's loop and on uvloop, which Serve's replicas use (conftest.py).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace

import pytest

from consilium.engine import frame_socket
from consilium.engine.backends.echo import EchoEngine
from consilium.engine.deployment import EngineReplica
from consilium.engine.frame_socket import (
    SENT,
    TAKEN,
    CallerGoneError,
    Inbox,
    Landing,
    Line,
    open_line,
)
from consilium.engine.ports import Call
from consilium.kernel import trace_context
from consilium.kernel.errors import ConsiliumError

MIB = 2**20
LIMIT_S = 60


@pytest.fixture
async def landing() -> AsyncIterator[Landing]:
    made = Landing()
    yield made
    await made.aclose()


async def said(
    *items: bytes, error: Exception | None = None, after: asyncio.Event | None = None
) -> AsyncGenerator[bytes, None]:
    """What Serve tells the caller."""
    for item in items:
        yield item
    if after is not None:
        await after.wait()
    if error is not None:
        raise error


async def opened(inbox: Inbox) -> Line:
    line = await open_line(inbox.address)
    assert line is not None
    return line


async def read(inbox: Inbox) -> bytes:
    async with asyncio.timeout(LIMIT_S):
        return b"".join([item async for item in inbox])


async def test_many_calls_each_get_their_own_items_in_order(landing: Landing) -> None:
    async def call(number: int) -> bool:
        inbox = await landing.expect()
        inbox.follow(said(SENT))
        line = await opened(inbox)
        words = [f"{number}:{step};".encode() * (step + 1) for step in range(50)]

        async def replica() -> None:
            async with line:
                for word in words:
                    await line.send(word)
                    await asyncio.sleep(0)
                await line.finish()

        sender = asyncio.ensure_future(replica())
        got = await read(inbox)
        await sender
        return got == b"".join(words)

    for _ in range(3):
        assert all(await asyncio.gather(*(call(number) for number in range(20))))
    assert landing._inboxes == {}


async def test_that_a_call_was_taken_is_seen_before_its_first_item(landing: Landing) -> None:
    inbox = await landing.expect()
    inbox.follow(said(after=asyncio.Event()))
    assert inbox.is_waiting
    async with await opened(inbox), asyncio.timeout(LIMIT_S):
        while inbox.is_waiting:  # noqa: ASYNC110  what is asked for
            await asyncio.sleep(0.01)
    inbox.discard()


async def test_a_replica_that_cannot_reach_the_socket_says_through_serve_that_it_has_the_call(
    landing: Landing,
) -> None:
    call = Call("r1", "chat", {"model": "echo", "messages": [{"role": "user", "content": "x"}]})
    echo = EchoEngine()
    await echo.start()
    replica = SimpleNamespace(_engine=echo)
    items = [
        item async for item in EngineReplica.stream(replica, {**call.as_dict(), "landing": ""})
    ]
    assert items[0] == TAKEN
    inbox = await landing.expect()
    inbox.follow(said(TAKEN, after=asyncio.Event()))
    async with asyncio.timeout(LIMIT_S):
        while inbox.is_waiting:  # noqa: ASYNC110  what is asked for
            await asyncio.sleep(0.01)
    inbox.discard()
    inbox = await landing.expect()
    inbox.follow(said(*items))
    assert await read(inbox) == b"".join(items[1:])


async def test_what_a_replica_logs_of_a_call_has_the_trace_of_its_caller() -> None:
    trace = trace_context.new()
    call = Call("r1", "chat", {"messages": []}, trace=trace.headers())
    seen = []

    class Telling(EchoEngine):
        async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
            seen.append(trace_context.current())
            async for frame in super().stream(call):
                yield frame

    echo = Telling()
    await echo.start()
    asked = {**call.as_dict(), "landing": ""}
    assert [item async for item in EngineReplica.stream(SimpleNamespace(_engine=echo), asked)]
    assert seen == [trace]


async def test_a_document_of_megabytes_and_a_call_without_items(landing: Landing) -> None:
    whole = os.urandom(5 * MIB)
    for content in (whole, b""):
        inbox = await landing.expect()
        inbox.follow(said(SENT))
        line = await opened(inbox)

        async def replica(line: Line = line, content: bytes = content) -> None:
            async with line:
                await line.send(content)
                await line.finish()

        sender = asyncio.ensure_future(replica())
        assert await read(inbox) == content
        await sender


async def test_whoever_does_not_read_makes_the_replica_wait_and_nobody_else(
    landing: Landing,
) -> None:
    slow, quick = await landing.expect(), await landing.expect()
    lines = [await opened(inbox) for inbox in (slow, quick)]
    sent = 0

    async def flood() -> None:
        nonlocal sent
        async with lines[0] as line:
            for _ in range(1000):
                await line.send(b"x" * 16384)
                sent += 1
            await line.finish()

    sender = asyncio.ensure_future(flood())
    async with lines[1] as line:
        await line.send(b"quick")
        await line.finish()
    assert await read(quick) == b"quick"
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 200  # what one inbox and two sockets' buffers hold
    assert len(await read(slow)) == 1000 * 16384
    await sender


async def test_whoever_leaves_unread_stops_nobody(landing: Landing) -> None:
    left = await landing.expect()
    async with await opened(left) as line:
        flood = asyncio.ensure_future(line.send(b"x" * 4 * MIB))
        await asyncio.sleep(0.05)
        left.discard()
        await asyncio.wait_for(flood, LIMIT_S)
        await line.finish()
    assert await read(left) == b""


async def test_a_break_is_what_serve_says_of_it(landing: Landing) -> None:
    inbox, dead = await landing.expect(), asyncio.Event()
    inbox.follow(said(error=ConsiliumError("upstream_down", "killed"), after=dead))
    async with await opened(inbox) as line:
        await line.send(b"first")
    assert await anext(inbox) == b"first"
    asyncio.get_running_loop().call_later(0.1, dead.set)
    with pytest.raises(ConsiliumError, match="killed"):
        await read(inbox)


async def test_a_break_of_which_serve_says_nothing(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.1)
    for follows in (True, False):
        inbox = await landing.expect()
        if follows:
            inbox.follow(said(after=asyncio.Event()))
        async with await opened(inbox) as line:
            await line.send(b"first")
        assert await anext(inbox) == b"first"
        with pytest.raises(ConsiliumError, match="connection to the replica broke"):
            await read(inbox)
        inbox.discard()


async def test_a_replica_that_says_it_sent_all_and_broke_off_is_believed_the_second(
    landing: Landing,
) -> None:
    inbox = await landing.expect()
    inbox.follow(said(SENT))
    await asyncio.sleep(0.05)
    async with await opened(inbox) as line:
        await line.send(b"first")
    assert await anext(inbox) == b"first"
    with pytest.raises(ConsiliumError, match="upstream_down"):
        await read(inbox)


async def test_frames_that_come_through_serve_after_all_and_wait_for_the_reader(
    landing: Landing,
) -> None:
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


async def test_an_error_before_the_first_item_is_told_at_once(landing: Landing) -> None:
    inbox = await landing.expect()
    async with await opened(inbox):
        inbox.follow(said(error=ConsiliumError("queue_full", name="core")))
        with pytest.raises(ConsiliumError, match="queue_full"):
            await read(inbox)


async def test_an_error_of_serve_comes_behind_what_the_connection_still_holds(
    landing: Landing,
) -> None:
    """The caller does not read for a while, and the rest waits in the socket."""
    inbox, failed = await landing.expect(), asyncio.Event()
    inbox.follow(said(error=ConsiliumError("upstream_down", "killed"), after=failed))
    async with await opened(inbox) as line:
        for _ in range(22):
            await line.send(b"x" * 16384)
    failed.set()
    await asyncio.sleep(0.05)
    got = 0

    async def slowly() -> None:
        nonlocal got
        async for item in inbox:
            got += len(item)
            await asyncio.sleep(0.01)

    with pytest.raises(ConsiliumError, match="killed"):
        await slowly()
    assert got == 22 * 16384


async def test_a_call_that_is_cancelled_elsewhere_ends(landing: Landing) -> None:
    inbox = await landing.expect()

    async def cancelled() -> AsyncGenerator[bytes, None]:
        raise asyncio.CancelledError
        yield b""

    async with await opened(inbox):
        inbox.follow(cancelled())
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await read(inbox)


async def test_what_was_sent_and_never_came_is_missed(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The landing had no descriptor left, took the connection and closed it."""
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.1)
    inbox = await landing.expect()
    inbox.follow(said(SENT))
    with pytest.raises(ConsiliumError, match="upstream_down"):
        await read(inbox)


async def test_a_replica_that_stands_still_after_serve_gave_it_up_is_not_waited_for(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is killed and does not end, as one that hangs in a driver."""
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.2)
    inbox = await landing.expect()
    async with await opened(inbox) as line:
        await line.send(b"first")
        assert await anext(inbox) == b"first"
        inbox.follow(said(error=ConsiliumError("upstream_down", "killed")))
        with pytest.raises(ConsiliumError, match="killed"):
            await read(inbox)


async def test_the_end_is_said_when_the_caller_has_it_all(landing: Landing) -> None:
    """From then on the replica may be ended, and a slow caller has lost nothing."""
    inbox = await landing.expect()
    async with await opened(inbox) as line:

        async def replica() -> None:
            for _ in range(28):
                await line.send(b"x" * 16384)
            await line.finish()

        sending = asyncio.ensure_future(replica())
        await asyncio.sleep(0.1)
        inbox.follow(said(SENT))
        assert len(await read(inbox)) == 28 * 16384
        await asyncio.wait_for(sending, LIMIT_S)


async def test_a_landing_without_a_descriptor_tries_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_args: object, **_more: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(type(asyncio.get_running_loop()), "create_unix_server", full)
        assert (await landing.expect()).address == ""
    assert (await landing.expect()).address != ""


async def test_a_second_replica_with_the_same_ticket_is_not_mixed_with_the_first(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve tries another replica when the first one died before Serve heard that it had begun."""
    monkeypatch.setattr(frame_socket, "_LOST_S", 0.2)
    inbox = await landing.expect()
    async with await opened(inbox) as first:
        await first.send(b"first")
    async with await opened(inbox) as second:
        await second.send(b"second")
        await second.finish()
    inbox.follow(said(SENT))
    assert await anext(inbox) == b"first"
    with pytest.raises(ConsiliumError, match="upstream_down"):
        await read(inbox)


async def test_a_caller_that_is_gone_is_told(landing: Landing) -> None:
    inbox = await landing.expect()
    line = await opened(inbox)
    async with line:
        await line.send(b"x")
        assert await anext(inbox) == b"x"
        transport = inbox._transport
        assert transport is not None
        transport.abort()
        with pytest.raises(CallerGoneError):
            await line.send(b"y" * MIB)
        with pytest.raises(CallerGoneError):
            await line.finish()


async def test_what_cannot_be_reached_is_tried_once(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = await landing.expect()
    await landing.aclose()
    assert await open_line("") is None
    assert await open_line(inbox.address) is None
    monkeypatch.setattr(frame_socket, "_connected", None)
    assert await open_line(inbox.address) is None


async def test_what_cannot_be_reached_just_now_is_tried_again(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_name: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    inbox = await landing.expect()
    with monkeypatch.context() as patch:
        patch.setattr(frame_socket, "_connected", full)
        assert await open_line(inbox.address) is None
    async with await opened(inbox) as line:
        await line.send(b"now")
        await line.finish()
    assert await read(inbox) == b"now"


async def test_a_ticket_that_nobody_waits_for_reaches_nobody(landing: Landing) -> None:
    inbox = await landing.expect()
    name, _, _ = inbox.address.partition("/")
    line = await open_line(f"{name}/{'00' * 16}")
    assert line is not None
    async with line:
        await line.send(b"z" * MIB)
        await line.finish()
    async with await opened(inbox) as line:
        await line.send(b"mine")
        await line.finish()
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
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert out.strip() == b"b''"
    assert not inbox._items


async def test_where_there_are_no_such_sockets_all_goes_through_serve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def none(*_args: object, **_more: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_server", none)
    landing = Landing()
    inbox = await landing.expect()
    assert inbox.address == ""
    inbox.follow(said(b"a", b"b"))
    assert await read(inbox) == b"ab"
    await landing.aclose()


async def test_a_cut_in_the_middle_of_an_item_is_no_item(
    landing: Landing, monkeypatch: pytest.MonkeyPatch
) -> None:
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
