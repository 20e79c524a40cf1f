"""Puts a receipt into an answer that is already written: into the last event of a stream, or into the one JSON document.

Works on bytes, so that what the engine wrote passes through untouched. Knows the shape of SSE and of a JSON object's end. Does not know what a
receipt says.
"""

from __future__ import annotations

from typing import Final

DONE: Final = b"data: [DONE]"
_DATA: Final = b"data: {"
FIELD: Final = b'"consilium":'


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


def last_event(text: bytes) -> bytes:
    """Return the JSON of the last event before [DONE], or nothing."""
    done = text.rfind(DONE)
    before = text if done < 0 else text[:done]
    begin = before.rfind(_DATA)
    if begin < 0:
        return b""
    return before[begin + 6 :].split(b"\n", 1)[0].strip()
