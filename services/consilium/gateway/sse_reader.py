"""Reads the bytes of an OpenAI stream: whole events as dicts, and the typed pieces of a streamed chat.

One parser for the gRPC face and for clients. Knows where an SSE event ends and what OpenAI puts into one. Does not know transports.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from consilium.kernel.catalogue import BY_CODE, Row
from consilium.kernel.errors import ConsiliumError, FieldValue

Json: TypeAlias = dict[str, Any]

DONE: Final = b"[DONE]"
_END: Final = re.compile(rb"\r\n\r\n|\n\n")
_BY_STATUS: Final = {
    400: "invalid_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "model_unknown",
    413: "body_too_large",
    422: "invalid_request",
    429: "queue_full",
    499: "client_gone",
    501: "not_supported",
    503: "upstream_down",
    504: "deadline",
}


@dataclass(slots=True)
class Reader:
    """Takes bytes as they come and gives whole events; `done` after [DONE]."""

    done: bool = False
    _held: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> Iterator[Json]:
        """Yield the JSON of each event that is complete now. What is no JSON object is left out: comments, keep-alives, [DONE]."""
        held = self._held + data
        at = 0
        for found in _END.finditer(held):
            event = self._event(held[at : found.start()])
            at = found.end()
            if event is not None:
                yield event
        self._held = held[at:]

    def end(self) -> Iterator[Json]:
        """Yield the last event if the stream ended without its blank line."""
        return self.feed(b"\n\n")

    def _event(self, raw: bytes) -> Json | None:
        text = b"\n".join(
            line[5:].lstrip() for line in raw.splitlines() if line.startswith(b"data:")
        )
        if not text:
            return None
        if text == DONE:
            self.done = True
            return None
        try:
            value = json.loads(text)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """One piece of a streamed chat; empty fields say nothing. `receipt` comes with the last one."""

    text: str = ""
    thinking: str = ""
    finish_reason: str | None = None
    receipt: Json | None = None


def chat_piece(event: Mapping[str, Any]) -> ChatPiece:
    """Return what an event of a streamed chat says. Raises ConsiliumError if it is an error event."""
    if "error" in event:
        raise told(event, 500)
    choice = first_choice(event)
    delta = mapping(choice.get("delta"))
    note = mapping(event.get("consilium")).get("receipt")
    return ChatPiece(
        text=str(delta.get("content") or ""),
        thinking=str(delta.get("reasoning") or delta.get("reasoning_content") or ""),
        finish_reason=choice.get("finish_reason"),
        receipt=note if isinstance(note, dict) else None,
    )


def first_choice(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice of an event, or an empty mapping."""
    choices = event.get("choices")
    return mapping(choices[0]) if isinstance(choices, list) and choices else {}


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


class ToldError(ConsiliumError):
    """An error whose public sentence was written by the other side."""

    def public(self) -> str:
        """Return the sentence as it came."""
        return self.detail or super().public()


def told(body: object, status: int, *, retry_after_s: float | None = None) -> ConsiliumError:
    """Return our error for an OpenAI error object.

    status  HTTP status that came with it; decides where the object's own `code` is not one of ours
    """
    error = mapping(mapping(body).get("error"))
    message = str(error.get("message") or f"HTTP {status}")
    code = error.get("code")
    if isinstance(code, str) and code in BY_CODE:
        row = BY_CODE[code]
        fields = fields_of(row, message)
        return ToldError(
            code,
            message,
            retry_after_s=retry_after_s or _seconds(fields.get("retry_after")),
            **fields,
            param=_text(error.get("param")),
        )
    if isinstance(code, int) and code in _BY_STATUS:
        status = code
    known = _BY_STATUS.get(status, "internal" if status >= 500 else "invalid_request")
    param = _text(error.get("param"))
    shown: dict[str, FieldValue] = (
        {"field": param or "request", "reason": message}
        if known == "invalid_request"
        else {"reason": message}
    )
    return ToldError(known, message, retry_after_s=retry_after_s, **shown, param=param)


def fields_of(row: Row, message: str) -> dict[str, FieldValue]:
    """Return the fields with which a row's sentence reads like this message; nothing if it never does."""
    pattern = ""
    for literal, name, _, conversion in string.Formatter().parse(row.sentence):
        pattern += re.escape(literal)
        if name:
            quote = "'" if conversion == "r" else ""
            pattern += (
                f"(?P={name})" if f"(?P<{name}>" in pattern else f"{quote}(?P<{name}>.+?){quote}"
            )
    found = re.fullmatch(pattern, message, re.DOTALL)
    return {name: _number(text) for name, text in found.groupdict().items()} if found else {}


def _number(text: str) -> FieldValue:
    return int(text) if text.isascii() and text.isdigit() else text


def _seconds(value: FieldValue) -> float | None:
    """Return the seconds that a sentence names; inside a stream there is no header that does."""
    try:
        return float(value) if value is not None else None
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
