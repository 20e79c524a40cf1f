"""The short way of frames between two processes of one machine: a Unix socket, where Serve would make a gRPC message of each.

    caller    Landing --- expect() ---> Inbox        its address travels with the call
    replica   open_line(address) ---> Line           None where the address cannot be reached: then the frames go through Serve

The call itself, its errors, its cancellation and Serve's count of running calls stay Serve's; only frames go this way. The socket is abstract, so nothing is
left behind, and it exists for one network namespace: a replica on another machine or in another pod finds nothing and falls back. Either end talks to
processes of its own user alone, and a call is known by a ticket that only its replica was told.

Each call has a connection of its own, so who does not read holds nobody else up. On the wire: ticket (16 bytes), then items (4 bytes of length, big-endian,
and that many bytes), then a length of zero. Knows sockets. Does not know frames, Serve or engines.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

SENT: Final = b"\x02"
"""What the replica gives to Serve in place of the frames."""
TAKEN: Final = b"\x03"
"""What it gives to Serve before the frames, where they go that way: a whole answer is one frame, and comes after minutes perhaps."""

_log = logs.get("engine")

_TICKET: Final = 16
_LENGTH: Final = 4
_HELD: Final = 256 * 1024
"""Bytes that a caller who does not read lets pile up, before the replica is made to wait."""
_BACKLOG: Final = 4096
_LOST_S: Final = 5.0
"""Seconds that Serve has to say why a connection broke, and the connection to bring what was sent before Serve told of an error."""

_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_followers: set[asyncio.Task[None]] = set()
_absent: deque[str] = deque(maxlen=64)
"""Names that nobody listens at in this network namespace. They are random, so nobody ever will."""


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
        self._is_over = False
        self._error: BaseException | None = None
        self._transport: asyncio.Transport | None = None
        self._is_claimed = self._is_taken = self._is_lost = False
        self._verdict: BaseException | None = None
        self._taken = 0
        self._follower: asyncio.Task[None] | None = None

    @property
    def is_claimed(self) -> bool:
        """Whether a connection came for this call; there is only one."""
        return self._is_claimed

    @property
    def is_waiting(self) -> bool:
        """Whether no replica has taken the call yet, as far as can be seen from here."""
        return not (self._is_claimed or self._is_taken or self._taken or self._is_over)

    def follow(self, response: AsyncIterator[bytes]) -> None:
        """Take what Serve says of the call: frames, or that they were sent here, and errors."""
        self._follower = asyncio.ensure_future(self._follow(response))
        _followers.add(
            self._follower
        )  # it reads to the end of what Serve says, also when the inbox is no longer needed
        self._follower.add_done_callback(_followers.discard)

    async def _follow(self, response: AsyncIterator[bytes]) -> None:
        was_sent = False
        try:
            async for item in response:
                if item in (SENT, TAKEN):
                    was_sent = was_sent or item == SENT
                    self._is_taken = True
                    continue
                self.put(item)
                await self._room.wait()
        except (
            asyncio.CancelledError
        ):  # the call was cancelled elsewhere; where it is cancelled here, it is over before
            self.end(_broken())
            raise
        except Exception as error:
            self._judge(error, was_sent=False)
            return
        if was_sent:
            self._judge(_broken(), was_sent=True)
        else:
            self.end()

    def _judge(self, verdict: BaseException, *, was_sent: bool) -> None:
        """Know how the call has ended where the connection does not bring its end. What is still in the connection comes first."""
        self._verdict = verdict
        if self._is_lost or not (self._is_claimed or was_sent):
            self.end(verdict)
        else:
            asyncio.get_running_loop().call_later(_LOST_S / 2, self._look, self._taken, False)

    def _look(self, taken: int, is_quiet: bool) -> None:  # noqa: FBT001  a timer's argument
        """End with the verdict if nothing has come between three looks, though the caller reads: a replica that stands still does not close its connection."""
        if self._is_over:
            return
        is_still = taken == self._taken and self._room.is_set()
        if is_still and is_quiet:
            self.end(self._verdict)
        else:
            asyncio.get_running_loop().call_later(_LOST_S / 2, self._look, self._taken, is_still)

    def put(self, item: bytes) -> None:
        """Take an item."""
        if self._is_over:
            return
        self._taken += 1
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
            self._wake()

    def attach(self, transport: asyncio.Transport) -> None:
        """Know the connection of this call, to slow it down."""
        self._is_claimed, self._transport = True, transport

    def lost(self) -> None:
        """Know that the connection broke before the end. Serve will say why."""
        self._transport, self._is_lost = None, True
        if self._verdict is not None:
            self.end(self._verdict)
        elif not self._is_over:
            asyncio.get_running_loop().call_later(_LOST_S, self.end, _broken())

    def discard(self) -> None:
        """Want no more. What still comes is dropped, until the replica learns from Serve that the call is cancelled."""
        self.end()
        self._items.clear()
        if self._follower is not None:
            self._follower.cancel()

    def cut(self) -> None:
        """Want no more, and tell the replica by closing the connection."""
        self.discard()
        if self._transport is not None:
            self._transport.abort()

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
        """Return the inbox of a ticket; one that drops everything if nobody waits for it, or no longer, or if another connection has it already."""
        found = self._inboxes.get(ticket)
        if found is None or found.is_claimed:
            found = Inbox("", ticket, lambda _ticket: None)
            found.end()
        return found

    async def aclose(self) -> None:
        """Close the socket. Calls that run are cut off."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for inbox in list(self._inboxes.values()):
            inbox.cut()

    async def _open(self) -> str:
        name = f"consilium-{secrets.token_hex(16)}"
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                lambda: _Arrivals(self.claim), f"\0{name}", backlog=_BACKLOG
            )
        except (OSError, NotImplementedError) as error:
            _log.warning("frames_through_serve", reason=repr(error))
            if getattr(error, "errno", None) in _PASSING:
                self._opened = None  # the next call tries again; where there are no abstract sockets, all goes through Serve
            return ""
        return name

    def _forget(self, ticket: bytes) -> None:
        self._inboxes.pop(ticket, None)


class _Arrivals(asyncio.Protocol):
    """One connection at a landing: the items of one call."""

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
        inbox = self._inbox
        if inbox is None:
            if size < _TICKET or self._transport is None:
                return
            inbox = self._inbox = self._claim(bytes(held[:_TICKET]))
            inbox.attach(self._transport)
            at = _TICKET
        while size - at >= _LENGTH:
            length = int.from_bytes(held[at : at + _LENGTH])
            if size - at < _LENGTH + length:
                break
            at += _LENGTH
            if length:
                inbox.put(bytes(held[at : at + length]))
            else:
                inbox.end()
            at += length
        del held[:at]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        self._transport = None
        if self._inbox is not None:
            self._inbox.lost()


class CallerGoneError(Exception):
    """Nobody is there to take what is sent."""


class Line:
    """A connection for one call. Use as `async with`: left before `finish`, the caller knows that the rest is missing."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def send(self, item: bytes) -> None:
        """Send an item; waits while the caller does not read. Raises CallerGoneError."""
        if item:
            await self._write(len(item).to_bytes(_LENGTH) + item)

    async def finish(self) -> None:
        """Say that this was all, and return when the caller's socket has it: from then on this process may end. Raises CallerGoneError."""
        await self._write(bytes(_LENGTH))
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError as error:
            raise CallerGoneError from error

    async def _write(self, data: bytes) -> None:
        if self._writer.is_closing():  # uvloop would raise RuntimeError
            raise CallerGoneError
        self._writer.write(data)
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise CallerGoneError from error

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close."""
        self._writer.close()


async def open_line(address: str) -> Line | None:
    """Return a line to an inbox, or None where it cannot be reached from here."""
    name, _, ticket = address.partition("/")
    if not name or name in _absent:
        return None
    try:
        _, writer = await asyncio.open_unix_connection(sock=_connected(name))
        if _is_ours(writer.transport):
            writer.write(bytes.fromhex(ticket))  # at once: the caller sees that its call was taken
            return Line(writer)
        writer.close()
    except ConnectionRefusedError as error:
        _absent.append(name)
        _log.info("frames_through_serve", reason=repr(error))
    except (
        OSError
    ) as error:  # too many wait to be let in, or no descriptor is free: the next call tries again
        _log.debug("frames_through_serve", reason=repr(error))
    return None


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
    """Say whether the process at the other end belongs to our user (SO_PEERCRED, unix(7)). Raises OSError if it is gone."""
    raw = transport.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return bool(struct.unpack("3i", raw)[1] == os.geteuid())


def _broken() -> ConsiliumError:
    return ConsiliumError("upstream_down", "the connection to the replica broke", retry_after_s=1.0)
