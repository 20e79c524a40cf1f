"""Puts a receipt into an answer that is already written: into the last event of a stream, or into the one JSON document.

Works on bytes, so that what the engine wrote passes through untouched. Knows the shape of SSE and of a JSON object's end. Does not know what a
receipt says.
"""

from __future__ import annotations

from json import loads
from typing import Final

from consilium.kernel.json_bytes import dumps

DONE: Final = b"data: [DONE]"
_DATA: Final = b"data: {"
FIELD: Final = b'"consilium":'
_NOTHING: Final[dict[str, dict[str, object]]] = {
    "chat": {"delta": {}},
    "completions": {"text": "", "logprobs": None},
}
"""A choice that adds nothing to the answer."""


def into_document(body: bytes, note: bytes) -> bytes:
    """Return a JSON object with `"consilium": note` as its last member; anything else comes back as it was."""
    end = body.rstrip()
    if not end.startswith(b"{") or not end.endswith(b"}"):
        return body
    comma = b"" if end[1:-1].strip() == b"" else b","
    return end[:-1] + comma + FIELD + note + b"}"


def into_stream(last: bytes, note: bytes, spare: bytes) -> bytes:
    """Return the last bytes of a stream with the note in their last JSON event.

    last   whole events: the last of the stream, [DONE] among them where the protocol has it
    spare  an event for streams whose last bytes hold no JSON event; it goes before [DONE]
    """
    done = last.rfind(DONE)
    before, after = (last, b"") if done < 0 else (last[:done], last[done:])
    begin = before.rfind(_DATA)
    if begin < 0:
        return before + spare + after
    line_end = before.find(b"\n", begin)
    line_end = len(before) if line_end < 0 else line_end
    event = before[begin + 6 : line_end]
    return before[: begin + 6] + into_document(event, note) + before[line_end:] + after


def event_like(before: bytes, route: str, note: bytes) -> bytes:
    """Return an event of its own for a note, in the shape of those before it: clients read `choices[0]` of each, and some ask for every field.

    before  bytes of the stream with at least one of its events
    """
    nothing = _NOTHING.get(route)
    if nothing is None:
        return b"data: " + into_document(b'{"object":"consilium.receipt"}', note) + b"\n\n"
    known = _object(last_event(before))
    event: dict[str, object] = {
        name: known[name] for name in ("id", "object", "created", "model") if name in known
    }
    event["choices"] = [{"index": 0, **nothing, "finish_reason": None}]
    return b"data: " + into_document(dumps(event), note) + b"\n\n"


def _object(raw: bytes) -> dict[str, object]:
    """Return a JSON object, or an empty one for anything else: an executor elsewhere may cut its events anywhere."""
    try:
        found = loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def last_event(text: bytes) -> bytes:
    """Return the JSON of the last event before [DONE], or nothing."""
    done = text.rfind(DONE)
    before = text if done < 0 else text[:done]
    begin = before.rfind(_DATA)
    if begin < 0:
        return b""
    return before[begin + 6 :].split(b"\n", 1)[0].strip()
