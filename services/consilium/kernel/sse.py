"""Server-sent events in a stream of bytes: where one ends, and what it says.

Lines end with CR, LF or CRLF, as the WHATWG standard has it (HTML, "Server-sent events", 9.2.5 and 9.2.6), also when the network cuts between the two. Knows
bytes. Does not know JSON or transports.
"""

from __future__ import annotations

import re
from typing import Final

DONE: Final = b"[DONE]"
"""What OpenAI's streams say last, in place of JSON."""
_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LONGEST_END: Final = 4
_BOM: Final = b"\xef\xbb\xbf"


class Splitter:
    """Cuts bytes into events; each ends with its blank line, and joined they are what came in.

    limit  bytes after which an event without an end is given out as it is; None = none

    An event is given out when its blank line is there. If that line ends with CR and its LF comes only later, the LF stands before the next event, where it is
    one more blank line and says nothing.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._held = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are complete now."""
        looked_at = max(0, len(self._held) - _LONGEST_END)
        held = self._held + data
        events: list[bytes] = []
        at = 0
        for found in _END.finditer(held, looked_at):
            events.append(held[at : found.end()])
            at = found.end()
        rest = held[at:]
        if self._limit is not None and len(rest) > self._limit:
            events.append(rest)
            rest = b""
        self._held = rest
        return events

    def rest(self) -> bytes:
        """Return what came after the last event."""
        rest, self._held = self._held, b""
        return rest


def data_of(event: bytes) -> bytes:
    """Return the data lines of an event, joined by LF; nothing if it has none, as a comment that keeps a connection alive.

    A byte order mark before it is passed over; the standard allows one, at the beginning of a stream.
    """
    lines = (line.partition(b":") for line in event.removeprefix(_BOM).splitlines())
    return b"\n".join(value.removeprefix(b" ") for name, _, value in lines if name == b"data")
