"""Two answers to one request, made comparable.

Leaves out what must differ: ids, times, our own field, and where one stream happens to put two tokens into one event. Nothing else.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx
from tests.e2e.differential_cases import Case

DROPPED = {
    "id",
    "created",
    "consilium",
    "system_fingerprint",
    "kv_transfer_params",
    "request_id",
    "created_at",
}
CALL_ID = re.compile(r"(chatcmpl-tool-|call_|functions\.)[0-9A-Za-z:_-]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, media type and comparable body."""

    status: int
    media: str
    body: Any


def strip(value: Any) -> Any:
    """Drop ids, times and our field, at every depth."""
    if isinstance(value, dict):
        return {k: strip(v) for k, v in value.items() if k not in DROPPED}
    if isinstance(value, list):
        return [strip(v) for v in value]
    if isinstance(value, str):
        return CALL_ID.sub("CALL", value)
    return value


def _merge(into: Any, more: Any) -> Any:
    if isinstance(into, str) and isinstance(more, str):
        return into + more
    if isinstance(into, list) and isinstance(more, list):
        return into + more
    if isinstance(into, dict) and isinstance(more, dict):
        return {
            k: _merge(into[k], more[k]) if k in into and k in more else into.get(k, more.get(k))
            for k in [*into, *(k for k in more if k not in into)]
        }
    return more if more is not None else into


def assemble(text: str) -> dict[str, Any]:
    """Put the events of a stream together: what each choice said, how it ended, the usage, and whether [DONE] came last."""
    events = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    choices: dict[int, Any] = {}
    rest: list[Any] = []
    for event in events:
        if event == "[DONE]":
            continue
        parsed = strip(json.loads(event))
        for choice in parsed.pop("choices", []):
            index = choice.pop("index")
            # Values that are told again in each event are not sums.
            fixed = {k: choice[k] for k in ("finish_reason", "stop_reason") if k in choice}
            role = (
                choice.get("delta", {}).pop("role", None)
                if isinstance(choice.get("delta"), dict)
                else None
            )
            body = {k: v for k, v in choice.items() if k not in fixed}
            old = choices.setdefault(index, {"body": {}, "end": {}, "role": None})
            old["body"] = _merge(old["body"], body)
            old["end"] = {k: v if v is not None else old["end"].get(k) for k, v in fixed.items()}
            old["role"] = old["role"] or role
        usage = parsed.pop("usage", None)
        if parsed.keys() - {"object", "model"} and parsed not in rest:
            rest.append(parsed)
        if usage:
            choices["usage"] = usage  # type: ignore[index]
    return {"choices": choices, "rest": rest, "done": bool(events) and events[-1] == "[DONE]"}


def ask(client: httpx.Client, case: Case, model: str) -> Answer:
    """Put a case to a server."""
    body = {k: (model if v == "$MODEL" else v) for k, v in case.body.items()}
    reply = client.post(case.route, json=body)
    media = reply.headers.get("content-type", "").split(";")[0]
    if media == "text/event-stream":
        return Answer(reply.status_code, media, assemble(reply.text))
    return Answer(reply.status_code, media, strip(reply.json()))
