"""The short way of frames between two processes of one machine: a Unix socket, where Serve would make a gRPC message of each.

    caller    Landing --- expect() ---> Inbox        its address travels with the call
    replica   Outlet  --- open(address) ---> Line    None where the address cannot be reached: then the frames go through Serve

The call itself, its errors, its cancellation and Serve's count of running calls stay Serve's; only frames go this way. The socket is abstract, so nothing is
left behind, and it exists for one network namespace: a replica on another machine or in another pod finds nothing and falls back. Either end talks to
processes of its own user alone, and a call is known by a ticket that only its replica was told.

On the wire, for each call: ticket (16 bytes), then items (4 bytes of length, big-endian, and that many bytes), then a length of zero. Connections are kept
for later calls. Knows sockets. Does not know frames, Serve or engines.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, Self

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

SENT: Final = b"\x02"
"""What the replica gives to Serve in place of the frames."""

_log = logs.get("engine")

_TICKET: Final = 16
_LENGTH: Final = 4
_HELD: Final = 256 * 1024
"""Bytes that a caller who does not read lets pile up, before the replica is made to wait."""
_BACKLOG: Final = 4096
_LOST_S: Final = 5.0
"""Seconds that Serve has to say why a connection broke."""
_REMEMBERED: Final = 64

_followers: set[asyncio.Task[None]] = set()


class Inbox:
    """What arrives for one call, in order: iterate once. Items that wait together are given out joined."""

    def __init__(self, address: str, ticket: bytes, forget: Callable[[bytes], None]) -> None:
        self.address = address
        self._ticket, self._forget = ticket, forget
        self._items: deque[bytes] = deque()
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._is_over = self._is_lost = False
        self._error: BaseException | None = None
        self._transport: asyncio.Transport | None = None
        self._follower: asyncio.Task[None] | None = None

    def follow(self, response: AsyncIterator[bytes]) -> None:
        """Take what Serve says of the call: frames, or that they were sent here, and errors."""
        self._follower = asyncio.ensure_future(self._follow(response))
        _followers.add(self._follower)  # it reads to the end of what Serve says, also when the inbox is no longer needed
        self._follower.add_done_callback(_followers.discard)

    async def _follow(self, response: AsyncIterator[bytes]) -> None:
        sent = False
        try:
            async for item in response:
                if item == SENT:
                    sent = True
                    continue
                self.put(item)
                await self._room.wait()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.end(error)
            return
        if not sent or self._is_lost:
            self.end(_broken() if sent else None)

    def put(self, item: bytes) -> None:
        """Take an item."""
        if self._is_over:
            return
        self._items.append(item)
        self._size += len(item)
        if self._size > _HELD and self._room.is_set():
            self._room.clear()
            if self._transport is not None:
                self._transport.pause_reading()
        self._wake()

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes; what has come is still given out before an error."""
        if not self._is_over:
            self._is_over, self._error = True, error
            self._forget(self._ticket)
            self._speed_up()
            self._transport = None  # it may carry another call now
            self._wake()

    def attach(self, transport: asyncio.Transport) -> None:
        """Know whom to slow down."""
        self._transport = transport

    def lost(self) -> None:
        """Know that the connection broke before the end. Serve will say why."""
        self._transport, self._is_lost = None, True
        if self._is_over:
            return
        if self._follower is None or self._follower.done():
            self.end(_broken())
        else:
            asyncio.get_running_loop().call_later(_LOST_S, self.end, _broken())

    def discard(self) -> None:
        """Want no more. What still comes is dropped, until the replica learns from Serve that the call is cancelled."""
        self.end()
        self._items.clear()
        if self._follower is not None:
            self._follower.cancel()

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return what has come. Raises what Serve raised, and ConsiliumError(upstream_down) if the connection broke and Serve does not say why."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft() if len(self._items) == 1 else b"".join(self._items)
        self._items.clear()
        self._size = 0
        self._speed_up()
        return item

    def _speed_up(self) -> None:
        if not self._room.is_set():
            self._room.set()
            if self._transport is not None:
                self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Landing:
    """The socket of one caller's process, for all its calls."""

    def __init__(self) -> None:
        self._inboxes: dict[bytes, Inbox] = {}
        self._server: asyncio.Server | None = None
        self._opened: asyncio.Future[str] | None = None

    async def expect(self) -> Inbox:
        """Return the inbox of a new call."""
        if self._opened is None:
            self._opened = asyncio.ensure_future(self._open())
        name = await asyncio.shield(self._opened)
        ticket = secrets.token_bytes(_TICKET)
        inbox = Inbox(f"{name}/{ticket.hex()}" if name else "", ticket, self._forget)
        self._inboxes[ticket] = inbox
        return inbox

    def claim(self, ticket: bytes) -> Inbox:
        """Return the inbox of a ticket; one that drops everything if nobody waits for it, or no longer."""
        found = self._inboxes.get(ticket)
        if found is None:
            found = Inbox("", ticket, self._forget)
            found.end()
        return found

    async def aclose(self) -> None:
        """Close the socket. Calls that run are cut off."""
        server, self._server, self._opened = self._server, None, None
        if server is not None:
            server.close()
        for inbox in list(self._inboxes.values()):
            inbox.discard()

    async def _open(self) -> str:
        name = f"consilium-{secrets.token_hex(16)}"
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Arrivals(self.claim), f"\0{name}", backlog=_BACKLOG)
        except (OSError, NotImplementedError) as error:  # no abstract sockets here: all goes through Serve
            _log.warning("frames_through_serve", reason=repr(error))
            return ""
        return name

    def _forget(self, ticket: bytes) -> None:
        self._inboxes.pop(ticket, None)


class _Arrivals(asyncio.Protocol):
    """One connection at a landing: the items of one call after the other."""

    def __init__(self, claim: Callable[[bytes], Inbox]) -> None:
        self._claim = claim
        self._held = bytearray()
        self._inbox: Inbox | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Unix socket's is always a Transport
        if not _is_ours(transport):
            transport.close()

    def data_received(self, data: bytes) -> None:
        held = self._held
        held += data
        at, size = 0, len(held)
        while True:
            if self._inbox is None:
                if size - at < _TICKET:
                    break
                self._inbox = self._claim(bytes(held[at : at + _TICKET]))
                if self._transport is not None:
                    self._inbox.attach(self._transport)
                at += _TICKET
            if size - at < _LENGTH:
                break
            length = int.from_bytes(held[at : at + _LENGTH])
            if size - at < _LENGTH + length:
                break
            at += _LENGTH
            if length:
                self._inbox.put(bytes(held[at : at + length]))
            else:
                self._inbox.end()
                self._inbox = None
            at += length
        del held[:at]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        inbox, self._inbox, self._transport = self._inbox, None, None
        if inbox is not None:
            inbox.lost()


class Line:
    """A connection to a landing, held by one call. Use as `async with`: left before `finish`, it is closed, and the caller knows that the rest is missing."""

    def __init__(self, outlet: Outlet, name: str, ticket: bytes, writer: asyncio.StreamWriter) -> None:
        self._outlet, self._name, self._writer = outlet, name, writer
        self._prefix = ticket
        self._is_open = False

    async def send(self, item: bytes) -> None:
        """Send an item; waits while the caller does not read. Raises ConnectionError when it is gone."""
        if item:
            self._writer.write(self._prefix + len(item).to_bytes(_LENGTH) + item)
            self._prefix, self._is_open = b"", True
            await self._writer.drain()

    def finish(self) -> None:
        """Say that this was all."""
        self._writer.write(self._prefix + bytes(_LENGTH))
        self._prefix, self._is_open = b"", False

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Keep the connection for the next call, if the landing knows that this one is over."""
        if self._is_open:
            self._writer.close()
        else:
            self._outlet.keep(self._name, self._writer)


class Outlet:
    """The connections of one replica to the landings of its callers."""

    def __init__(self) -> None:
        self._idle: dict[str, list[asyncio.StreamWriter]] = {}
        self._unreachable: deque[str] = deque(maxlen=_REMEMBERED)

    async def open(self, address: str) -> Line | None:
        """Return a line to an inbox, or None where it cannot be reached from here."""
        name, _, ticket = address.partition("/")
        if not name or name in self._unreachable:
            return None
        idle = self._idle.get(name, [])
        while idle:
            writer = idle.pop()
            if not writer.is_closing():
                return Line(self, name, bytes.fromhex(ticket), writer)
        self._idle.pop(name, None)
        try:
            _, writer = await asyncio.open_unix_connection(sock=_connected(name))
        except BlockingIOError:  # too many at once are waiting to be let in; the next call tries again
            return None
        except OSError as error:
            self._unreachable.append(name)
            _log.info("frames_through_serve", reason=repr(error))
            return None
        if not _is_ours(writer.transport):
            writer.close()
            return None
        return Line(self, name, bytes.fromhex(ticket), writer)

    def keep(self, name: str, writer: asyncio.StreamWriter) -> None:
        """Keep a connection for the next call."""
        if not writer.is_closing():
            self._idle.setdefault(name, []).append(writer)

    def close(self) -> None:
        """Close what is idle."""
        for writers in self._idle.values():
            for writer in writers:
                with suppress(RuntimeError):  # the loop has ended
                    writer.close()
        self._idle.clear()


def _connected(name: str) -> socket.socket:
    """Return a socket that is connected to an abstract name: at once or not at all. uvloop cannot do it by the name. Raises OSError."""
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        made.connect(f"\0{name}")
    except OSError:
        made.close()
        raise
    return made


def _is_ours(transport: Any) -> bool:
    """Say whether the process at the other end belongs to our user (SO_PEERCRED, unix(7))."""
    raw = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", raw)[1] == os.getuid())


def _broken() -> ConsiliumError:
    return ConsiliumError("upstream_down", "the connection to the replica broke", retry_after_s=1.0)
