"""Comment lines in a stream of events that is silent: proxies and clients on the way take silence for death.

A comment is nothing to who reads events (HTML, "Server-sent events", 9.2.6), and stands only between two of them. Knows a stream's messages and
seconds. Does not know what it says, nor why it is silent.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Self

from consilium.gateway.asgi import Request

COMMENT: Final = b": keep-alive\n\n"
_EVENT_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")


class KeptAlive:
    """Watches what one answer sends. Use as `async with`, and send through `request`.

    every_s  seconds of silence after which a comment goes out, and again after as many; 0 = never
    """

    def __init__(self, request: Request, every_s: float) -> None:
        self._send, self._every_s = request.send, every_s
        self.request = request if every_s <= 0 else replace(request, send=self._sent)
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Task[None] | None = None
        self._writing = 0
        self._last_s = 0.0
        self._is_open = False
        self._body = b""

    async def __aenter__(self) -> Self:
        """Return itself; watching begins with the answer's head."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Say nothing more."""
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await self._comment

    async def _sent(self, message: Any) -> None:
        """Pass a message on, and remember when it was."""
        self._writing += 1
        try:
            await self._send(message)
        finally:
            self._writing -= 1
        loop = asyncio.get_running_loop()
        self._last_s = loop.time()
        if message["type"] == "http.response.start":
            self._is_open = True
            self._timer = loop.call_later(self._every_s, self._look)
            return
        self._body = message.get("body", b"")
        if not message.get("more_body", False):
            self._is_open = False

    def _look(self) -> None:
        """Send a comment if it is time for one, and look again."""
        if not self._is_open:
            return
        loop = asyncio.get_running_loop()
        left_s = self._last_s + self._every_s - loop.time()
        if left_s <= 0:
            left_s = self._every_s
            if self._may_say():
                self._comment = loop.create_task(self._say())
        self._timer = loop.call_later(left_s, self._look)

    def _may_say(self) -> bool:
        """Say whether a comment may stand here. Whoever does not read what was sent needs no more; and a comment's blank line would end a half event."""
        is_between = not self._body or self._body.endswith(_EVENT_ENDS)
        return self._is_open and not self._writing and is_between

    async def _say(self) -> None:
        if not self._may_say():  # in the same moment something was sent, perhaps the end
            return
        with suppress(OSError):  # whoever has left is noticed by those who look for that
            await self._sent({"type": "http.response.body", "body": COMMENT, "more_body": True})
