r"""The frames in which an engine's answer crosses processes.

    item 1       \x01 + head as JSON + \n + first bytes of the body (may be none). That of a stream says that the call was accepted: it was counted, it fits, and it
                 has a place in the engine. So it comes long before the first token, and an error after it has no status of its own
    items 2..    bytes of the body, as the engine wrote them
    last         \x00 + tail as JSON; may stand behind the last bytes of the body, in one item with them

A body is JSON or SSE with JSON in it. Neither can hold a zero byte, so the first zero byte always begins the tail. An item may carry all three parts.
Knows bytes. Does not know engines or transports.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final

from consilium.engine.ports import Head, Tail, Timings, Usage
from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.json_bytes import dumps

HEAD: Final = b"\x01"
TAIL: Final = b"\x00"
SSE: Final = "text/event-stream; charset=utf-8"
JSON: Final = "application/json"
DONE: Final = b"data: [DONE]\n\n"

_FIELDS: Final = {
    kind: tuple(field.name for field in fields(kind)) for kind in (Head, Usage, Timings)
}


def head_frame(head: Head, body: bytes = b"") -> bytes:
    """Return the first item: the head and the first bytes of the body."""
    return HEAD + dumps(_flat(head)) + b"\n" + body


def tail_frame(tail: Tail, body: bytes = b"") -> bytes:
    """Return the last item: the last bytes of the body and the tail."""
    return (
        body
        + TAIL
        + dumps(
            {
                "usage": _flat(tail.usage),
                "finish_reason": tail.finish_reason,
                "timings": _flat(tail.timings),
            }
        )
    )


def document(head: Head, body: bytes, tail: Tail) -> bytes:
    """Return a whole answer as one item."""
    return tail_frame(tail, head_frame(head, body))


def failure(head: Head, error: ConsiliumError) -> bytes:
    """Return a whole answer that is an OpenAI error object, as one item."""
    return document(head, dumps(to_openai(error)), Tail())


def broken_stream(error: ConsiliumError) -> bytes:
    """Return the SSE events that end a stream which failed after its head."""
    return b"data: " + dumps(to_openai(error)) + b"\n\n" + DONE


@dataclass(frozen=True, slots=True)
class Item:
    """What one item held."""

    head: Head | None
    body: bytes
    tail: Tail | None


class Reader:
    """Takes one answer apart, item by item."""

    def __init__(self) -> None:
        self._begun = False

    def take(self, item: bytes) -> Item:
        """Return the parts of the next item. Raises ConsiliumError(internal) if the first one has no head."""
        head: Head | None = None
        if not self._begun:
            head, item = split_head(item)
            self._begun = True
        at = item.find(TAIL)
        if at < 0:
            return Item(head, item, None)
        return Item(head, item[:at], _tail(item[at + 1 :]))


def split_head(item: bytes) -> tuple[Head, bytes]:
    """Return head and first body bytes of the first item. Raises ConsiliumError(internal) if it is none."""
    if not item.startswith(HEAD):
        raise ConsiliumError(
            "internal", f"first frame begins with {item[:1]!r} and not with a head"
        )
    raw, _, body = item[1:].partition(b"\n")
    return Head(**json.loads(raw)), body


def _tail(raw: bytes) -> Tail:
    parts = json.loads(raw)
    return Tail(
        usage=Usage(**parts["usage"]),
        finish_reason=parts["finish_reason"],
        timings=Timings(**parts["timings"]),
    )


def _flat(part: Head | Usage | Timings) -> dict[str, Any]:
    """Return the fields by name, without the deep copies that `dataclasses.asdict` makes of them."""
    return {name: getattr(part, name) for name in _FIELDS[type(part)]}
