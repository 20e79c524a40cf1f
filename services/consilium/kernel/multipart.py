"""multipart/form-data as SDKs send files, part by part while it comes in: nothing is kept, in memory or in a temporary file.

    async for part in Multipart(scope, receive):
        if part.filename: size = await uploads.receive(file, 0, part.receive, limit=limit)
        else:             purpose = await part.text()

A part is read before the next one is asked for; what is left of it is passed over. Stands on python-multipart, which knows the format. Does not know what the
parts are for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import Receive, Scope

MOST_PARTS: Final = 64
LONGEST_HEADERS: Final = 8192
"""Bytes of the headers of one part."""
LONGEST_TEXT: Final = 65_536
"""Bytes of a part that is a value and no file, unless the reader allows more."""


@dataclass(frozen=True, slots=True)
class _Data:
    """Bytes of the part that is being read, or its end."""

    data: bytes = b""
    is_end: bool = False


class Part:
    """One part. `filename` is None for a plain value."""

    def __init__(self, form: Multipart, name: str, filename: str | None, media: str) -> None:
        self._form = form
        self.name = name
        self.filename = filename
        self.media = media

    async def receive(self) -> MutableMapping[str, Any]:
        """Return the next piece as an ASGI message, so that whatever reads the body of a request reads a part as well."""
        return await self._form.next_of_part()

    async def text(self, limit: int = LONGEST_TEXT) -> str:
        """Return the whole as text. Raises ConsiliumError: invalid_request (longer than the limit in bytes, or no UTF-8), client_gone."""
        whole = bytearray()
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConsiliumError("client_gone")
            whole += message["body"]
            if len(whole) > limit:
                raise _bad(self.name, f"it has more than {limit} bytes")
            more = message["more_body"]
        try:
            return whole.decode()
        except UnicodeDecodeError:
            raise _bad(self.name, "it is not UTF-8") from None


class Multipart:
    """The parts of one request. Iterate once."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        """Raise ConsiliumError(invalid_request) if the request's content-type is another one, or names no boundary."""
        given = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        media, options = parse_options_header(given)
        boundary = options.get(b"boundary", b"")
        if media != b"multipart/form-data" or not boundary:
            raise _bad("content-type", "it must be multipart/form-data with a boundary")
        self._receive = receive
        self._came: deque[Part | _Data] = deque()
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._header_bytes = 0
        self._parts = 0
        self._is_done = False
        self._is_gone = False
        self._in_part = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def __aiter__(self) -> AsyncIterator[Part]:
        """Yield the parts. Raises ConsiliumError: invalid_request (the body is not of that form), client_gone."""
        while True:
            while self._in_part and not self._is_gone:
                await self.next_of_part()
            if self._is_gone:
                raise ConsiliumError("client_gone")
            found = await self._next()
            if found is None:
                if self._is_gone:
                    raise ConsiliumError("client_gone")
                return
            if isinstance(found, Part):
                self._in_part = True
                yield found

    async def next_of_part(self) -> MutableMapping[str, Any]:
        """Return the next piece of the part that was yielded last, as an ASGI message."""
        found = await self._next() if self._in_part else _Data(is_end=True)
        if found is None:
            return {"type": "http.disconnect"}
        if not isinstance(found, _Data):
            raise _bad("body", "a part begins before the one before it has ended")
        if found.is_end:
            self._in_part = False
        return {"type": "http.request", "body": found.data, "more_body": not found.is_end}

    async def _next(self) -> Part | _Data | None:
        """Return what comes next, or None at the end and when the caller has left."""
        while not self._came and not self._is_done:
            await self._read()
            if self._is_gone:
                return None
        return self._came.popleft() if self._came else None

    async def _read(self) -> None:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_gone = True
            return
        try:
            self._parser.write(message.get("body", b""))
        except FormParserError as err:
            raise _bad("body", f"it is not multipart/form-data: {str(err)[:100]}") from None
        if not message.get("more_body", False) and not self._is_done:
            raise _bad("body", "it ends before its last boundary")

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _bad("body", f"it has more than {MOST_PARTS} parts")
        self._headers, self._header_bytes = {}, 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._take_header(0, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._take_header(1, data[start:end])

    def _take_header(self, half: int, data: bytes) -> None:
        self._header_bytes += len(data)
        if self._header_bytes > LONGEST_HEADERS:
            raise _bad("body", f"the headers of a part have more than {LONGEST_HEADERS} bytes")
        self._header[half].extend(data)

    def _on_header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise _bad("body", "a part has no name: write content-disposition: form-data; name=...")
        filename = options.get(b"filename")
        self._came.append(
            Part(
                self,
                _text(options[b"name"]),
                _text(filename) if filename is not None else None,
                _text(self._headers.get(b"content-type", b"")),
            )
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._came.append(_Data(data[start:end]))

    def _on_part_end(self) -> None:
        self._came.append(_Data(is_end=True))

    def _on_end(self) -> None:
        self._is_done = True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason)
