"""From the events of an OpenAI stream, and from receipts, to the messages of generation.proto.

Knows both vocabularies. Does not know who asked or what was decided.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from consilium.gateway.sse_reader import mapping
from consilium.kernel.openai_errors import told
from consilium.v1 import generation_pb2 as pb

Json: TypeAlias = Mapping[str, Any]
Standing: TypeAlias = "pb.Standing.ValueType"

_REASONS: Final = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "tool_calls": pb.FINISH_REASON_TOOL_CALLS,
    "abort": pb.FINISH_REASON_ABORTED,
}
_STANDINGS: Final[Mapping[object, Standing]] = {
    "official": pb.STANDING_OFFICIAL,
    "alternative": pb.STANDING_ALTERNATIVE,
}
_INT32: Final = 2**31 - 1


class Events:
    """Turns the events of one answer into messages, and keeps what belongs into the last one: of several choices, what ended the first."""

    def __init__(self) -> None:
        self._reason = pb.FINISH_REASON_UNSPECIFIED
        self._stop_text = ""
        self._receipt: Json = {}
        self._standings: dict[int, Standing] = {}

    def take(self, event: Json) -> Iterator[pb.GenerateResponse]:
        """Yield the messages of one event. Raises ConsiliumError if it is an error event."""
        if "error" in event:
            raise told(event, 500)
        note = mapping(event.get("consilium")).get("receipt")
        if isinstance(note, Mapping):
            self._receipt = note
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            yield from self._choice(mapping(choice))

    def _choice(self, choice: Json) -> Iterator[pb.GenerateResponse]:
        index = choice.get("index")
        number = index if isinstance(index, int) and 0 <= index <= _INT32 else 0
        named = mapping(choice.get("consilium")).get("standing")
        if named in _STANDINGS:
            self._standings[number] = _STANDINGS[named]
        for message in _pieces(choice):
            message.choice = number
            message.standing = self._standings.get(number, pb.STANDING_UNSPECIFIED)
            yield message
        if number:
            return
        if reason := choice.get("finish_reason"):
            self._reason = _REASONS.get(str(reason), pb.FINISH_REASON_UNSPECIFIED)
        if isinstance(stop := choice.get("stop_reason"), str):
            self._stop_text = stop

    def final(self, usage: Json) -> pb.GenerateResponse:
        """Return the last message."""
        message = pb.Final(
            finish_reason=self._reason, usage=usage_of(usage), stop_text=self._stop_text
        )
        if self._receipt:
            message.receipt.CopyFrom(receipt(self._receipt))
        return pb.GenerateResponse(final=message)


def _pieces(choice: Json) -> Iterator[pb.GenerateResponse]:
    """Yield what one choice of an event says."""
    delta = mapping(choice.get("delta"))
    if thought := delta.get("reasoning") or delta.get("reasoning_content"):
        yield pb.GenerateResponse(reasoning=str(thought))
    if said := delta.get("content") or choice.get("text"):
        yield pb.GenerateResponse(text=str(said))
    for call in delta.get("tool_calls") or ():
        yield pb.GenerateResponse(tool_call=_tool_call(mapping(call)))
    if isinstance(found := choice.get("logprobs"), Mapping):
        yield pb.GenerateResponse(logprobs=_logprobs(found))


def usage_of(usage: Json) -> pb.Usage:
    """Return counts of tokens."""
    return pb.Usage(
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        completion_tokens=int(usage.get("completion_tokens", 0)),
        cached_tokens=int(usage.get("cached_tokens", 0)),
    )


def receipt(found: Json) -> pb.Receipt:
    """Return a receipt. The whole of it is in `json`."""
    ended, took_ms = found.get("created"), mapping(found.get("timings")).get("total")
    stamp = Timestamp()
    if isinstance(ended, int | float):  # a receipt is dated by the end of its answer
        stamp.FromDatetime(
            datetime.fromtimestamp(
                ended - (took_ms / 1000 if isinstance(took_ms, int | float) else 0.0), UTC
            )
        )
    return pb.Receipt(
        id=str(found.get("id", "")),
        created=stamp,
        executor=str(found.get("executor", "")),
        replica=str(found.get("replica", "")),
        model=str(found.get("model") or ""),
        revision=str(found.get("revision", "")),
        role=str(found.get("role") or ""),
        profile=str(found.get("profile") or ""),
        profile_reason=str(found.get("profile_why") or ""),
        steps=_steps(found),
        json=json.dumps(found, ensure_ascii=False),
    )


def _steps(found: Json) -> Iterator[pb.ReceiptStep]:
    """Yield the timeline: what was decided at once, then the stages of which a time is known, oldest first."""
    yield pb.ReceiptStep(
        at_ms=0.0,
        name="received",
        detail=f"{found.get('route', '')} for {found.get('model_asked', '')}",
    )
    for note in found.get("notes") or ():
        yield pb.ReceiptStep(at_ms=0.0, name="note", detail=str(note))
    if found.get("profile"):
        yield pb.ReceiptStep(
            at_ms=0.0,
            name="profile_chosen",
            detail=f"{found['profile']}: {found.get('profile_why') or ''}",
        )
    chosen = str(found.get("executor", ""))
    if found.get("fallback_from"):
        chosen += f" instead of {found['fallback_from']} ({found.get('fallback_why') or ''})"
    times = {
        name: float(value)
        for name, value in mapping(found.get("timings")).items()
        if isinstance(value, int | float)
    }
    at = times.get("gateway", 0.0)
    yield pb.ReceiptStep(at_ms=at, name="executor_chosen", detail=chosen, took_ms=at)
    if "first_byte" in times:
        yield pb.ReceiptStep(
            at_ms=times["first_byte"],
            name="first_token",
            took_ms=max(0.0, times["first_byte"] - at),
        )
    if "total" in times:
        yield pb.ReceiptStep(
            at_ms=times["total"],
            name="done",
            detail=str(found.get("finish_reason") or ""),
            took_ms=times["total"],
        )


def _tool_call(call: Json) -> pb.ToolCallDelta:
    function = mapping(call.get("function"))
    return pb.ToolCallDelta(
        index=int(call.get("index") or 0),
        id=str(call.get("id") or ""),
        name=str(function.get("name") or ""),
        arguments_json=str(function.get("arguments") or ""),
    )


def _logprobs(found: Json) -> pb.Logprobs:
    """Return log probabilities in either of OpenAI's two shapes: `content` of a chat, parallel lists of a completion."""
    content = found.get("content")
    if isinstance(content, list):
        return pb.Logprobs(tokens=[_token(mapping(item)) for item in content])
    tokens, values, tops = (
        found.get(name) or [] for name in ("tokens", "token_logprobs", "top_logprobs")
    )
    made = []
    for number, token in enumerate(tokens):
        value = values[number] if number < len(values) else None
        top = mapping(tops[number]) if number < len(tops) else {}
        made.append(
            pb.TokenLogprob(
                token=str(token),
                logprob=value or 0.0,
                top=[pb.TokenLogprob(token=name, logprob=chance) for name, chance in top.items()],
            )
        )
    return pb.Logprobs(tokens=made)


def _token(item: Json) -> pb.TokenLogprob:
    raw = item.get("bytes")
    return pb.TokenLogprob(
        token=str(item.get("token", "")),
        logprob=float(item.get("logprob") or 0.0),
        bytes=bytes(raw) if isinstance(raw, list) else b"",
        top=[_token(mapping(other)) for other in item.get("top_logprobs") or ()],
    )


def tokens(value: object) -> list[int]:
    """Return token ids that fit the wire."""
    return (
        [number for number in value if isinstance(number, int) and 0 <= number <= _INT32]
        if isinstance(value, list)
        else []
    )


def unpacked(value: object) -> bytes:
    """Return a vector that was written as base64 of little-endian float32 values."""
    return base64.b64decode(value) if isinstance(value, str) else b""
