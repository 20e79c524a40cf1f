"""The events of a streamed response, told as its stored copy is: with the fields that this room owns, and cut where it was cut.

vLLM ends every stream with `response.completed`. Knows the events of the Responses API. Does not know who asked or where responses are stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from consilium.gateway import conversation
from consilium.kernel.json_bytes import dumps
from consilium.kernel.sse import Splitter, data_of

COMPLETED: Final = "response.completed"
INCOMPLETE: Final = "response.incomplete"
ITEM_DONE: Final = "response.output_item.done"
_WHOLE: Final = frozenset(
    {"response.created", "response.queued", "response.in_progress", COMPLETED, INCOMPLETE, "response.failed"}
)  # fmt: skip
"""Events that carry the response."""
_TYPE: Final = re.compile(rb'"type":\s*"(response\.[a-z_.]+)"')
"""Texts of a model cannot look like this: JSON escapes their quotes."""
_LONGEST: Final = 1 << 24
"""Bytes of an event that is waited for; a longer one passes as it is."""


class Events:
    """Takes the bytes of one stream and gives them back as they are told to the caller."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        """Take the body as the caller sent it."""
        self._given = dict(given)
        self._splitter = Splitter(_LONGEST)
        self._item = b""

    def feed(self, data: bytes) -> bytes:
        """Return what may go out now. The last event of an item waits for the next event, which says whether the item is whole."""
        return b"".join(map(self._told, self._splitter.feed(data)))

    def end(self) -> bytes:
        """Return what is left."""
        item, self._item = self._item, b""
        return item + self._splitter.rest()

    def _told(self, event: bytes) -> bytes:
        found = _TYPE.search(event)
        kind = found[1].decode() if found else ""
        if not kind:
            return self._item_then(event)
        if kind == ITEM_DONE:
            out, self._item = self._item, event
            return out
        if kind not in _WHOLE:
            return self._item_then(event)
        value = _json(event)
        if value is None or not isinstance(value.get("response"), dict):
            return self._item_then(event)
        response = conversation.told(value["response"], self._given)
        if kind == COMPLETED and response.get("status") == "incomplete":
            kind = INCOMPLETE
            self._item = _cut(self._item)
        return self._item_then(_event(kind, {**value, "type": kind, "response": response}))

    def _item_then(self, event: bytes) -> bytes:
        item, self._item = self._item, b""
        return item + event


def _cut(event: bytes) -> bytes:
    """Return the last event of an item that the answer's end has cut."""
    value = _json(event)
    if value is None or not isinstance(value.get("item"), dict):
        return event
    return _event(ITEM_DONE, {**value, "item": {**value["item"], "status": "incomplete"}})


def _event(kind: str, value: dict[str, Any]) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + dumps(value) + b"\n\n"


def _json(event: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data_of(event))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
