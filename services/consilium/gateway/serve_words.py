"""Serve's own answers in our words: what it says in plain text becomes an error object with a code.

    404 "Path '/v1/models' not found"   503 engine_starting: Serve does not know the gateway yet, or its replicas are being started again
    500, 503 in plain text              503 upstream_down: the process that should have answered is gone

The gateway itself answers in JSON or as a stream, so plain text with such a status is Serve's; what rooms answer is left alone. Knows ASGI and Serve's sentences.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from consilium.gateway.asgi import Receive, Scope, Send
from consilium.kernel.errors import ConsiliumError, http_status, to_openai
from consilium.kernel.json_bytes import dumps

Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Message: TypeAlias = MutableMapping[str, Any]

STARTING_S: Final = 2.0
DOWN_S: Final = 1.0
NOT_FOUND: Final = 404
_UNKNOWN_PATH: Final = b"Path '"
_GONE: Final = frozenset({500, 503})
_TEXT: Final = b"text/plain"


class InOurWords:
    """Stands before an HTTP server of Serve's.

    rooms  prefixes of paths, without a slash at the end, whose answers are their own
    """

    def __init__(self, app: Application, rooms: tuple[str, ...] = ()) -> None:
        """Take the application behind it."""
        self._app, self._rooms = app, rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        is_a_rooms = any(path == known or path.startswith(f"{known}/") for known in self._rooms)
        await self._app(scope, receive, _Answer(send, is_a_rooms=is_a_rooms))


class _Answer:
    """One answer on its way back. Its head is held until it is known whose it is."""

    def __init__(self, send: Send, *, is_a_rooms: bool) -> None:
        self._send, self._is_a_rooms = send, is_a_rooms
        self._held: Message | None = None
        self._is_replaced = False

    async def __call__(self, message: Message) -> None:
        if self._is_replaced:
            return
        if message["type"] == "http.response.start" and self._may_be_serves(message):
            self._held = message
            return
        if self._held is not None:
            head, self._held = self._held, None
            error = self._error(head, message)
            if error is not None:
                self._is_replaced = True
                await _say(self._send, error)
                return
            await self._send(head)
        await self._send(message)

    def _may_be_serves(self, head: Message) -> bool:
        status = head["status"]
        if status != NOT_FOUND and (self._is_a_rooms or status not in _GONE):
            return False
        headers: list[tuple[bytes, bytes]] = head.get("headers", [])
        return any(
            name.lower() == b"content-type" and value.startswith(_TEXT) for name, value in headers
        )

    def _error(self, head: Message, body: Message) -> ConsiliumError | None:
        """Return what is said in place of this answer; None where it is not Serve's."""
        if head["status"] != NOT_FOUND:
            return ConsiliumError("upstream_down", name="The gateway", retry_after_s=DOWN_S)
        if not bytes(body.get("body", b"")).startswith(_UNKNOWN_PATH):
            return None
        return ConsiliumError("engine_starting", name="The gateway", retry_after_s=STARTING_S)


async def _say(send: Send, error: ConsiliumError) -> None:
    document = dumps(to_openai(error))
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(document)).encode()),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(round(error.retry_after_s)).encode()))
    await send({"type": "http.response.start", "status": http_status(error), "headers": headers})
    await send({"type": "http.response.body", "body": document})
