"""Events of a stream of bytes, whole and unchanged. Knows where an SSE event ends. Does not know what it says."""

from __future__ import annotations

import re
from typing import Final

_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Splitter:
    """Cuts bytes into events; each ends with its blank line, and joined they are what came in.

    limit  bytes after which an event without an end is given out as it is
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._held = b""
        self._limit = limit

    def feed(self, data: bytes) -> list[bytes]:
        """Return the events that are complete now."""
        held = self._held + data
        events: list[bytes] = []
        at = 0
        # The last blank line may still be growing ("\r\n\r" + "\n"), but no end is found before it is whole.
        for found in _END.finditer(held):
            events.append(held[at : found.end()])
            at = found.end()
        rest = held[at:]
        if len(rest) > self._limit:
            events.append(rest)
            rest = b""
        self._held = rest
        return events

    def rest(self) -> bytes:
        """Return what came after the last event."""
        rest, self._held = self._held, b""
        return rest


def data_of(event: bytes) -> bytes:
    """Return the data lines of an event, joined."""
    return b"\n".join(
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    )
