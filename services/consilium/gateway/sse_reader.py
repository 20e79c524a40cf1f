"""Reads the bytes of an OpenAI stream: whole events as dicts, and the typed pieces of a streamed chat.

One parser for the gRPC face and for clients. Knows what OpenAI puts into an event. Does not know where one ends (kernel/sse.py), nor transports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from consilium.kernel import sse
from consilium.kernel.openai_errors import told

Json: TypeAlias = dict[str, Any]


@dataclass(slots=True)
class Reader:
    """Takes bytes as they come and gives whole events; `done` after [DONE]."""

    done: bool = False
    _splitter: sse.Splitter = field(default_factory=sse.Splitter, repr=False)

    def feed(self, data: bytes) -> Iterator[Json]:
        """Yield the JSON of each event that is complete now. What is no JSON object is left out: comments, keep-alives, [DONE]."""
        for event in self._splitter.feed(data):
            if (value := self._value(event)) is not None:
                yield value

    def end(self) -> Iterator[Json]:
        """Yield the last event if the stream ended without its blank line."""
        return self.feed(b"\n\n")

    def _value(self, event: bytes) -> Json | None:
        text = sse.data_of(event).strip()
        if text == sse.DONE:
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
