"""What /v1/responses remembers: earlier responses by id, so that `previous_response_id` goes on where one ended.

The engine forgets every response; this room owns them. Knows the shapes of the Responses API as far as input and output items go. Does not know
where they are stored, nor who generates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from consilium.gateway.receipt_bytes import last_event

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """One response and the input items that led to it, earlier ones included. `owner` is the key that may read it."""

    response: Json
    items: list[Any]
    owner: str

    def as_dict(self) -> Json:
        """Return the shape that is stored."""
        return {"response": self.response, "items": self.items, "owner": self.owner}


def of(raw: Json) -> Stored:
    """Return what `as_dict` wrote. Raises KeyError if it is another thing."""
    return Stored(raw["response"], raw["items"], raw["owner"])


def items(value: object) -> list[Any]:
    """Return `input` as items: a text is one message of the user."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    return list(value) if isinstance(value, list) else []


def continued(body: Json, earlier: Stored | None) -> Json:
    """Return the request for an engine that remembers nothing: earlier items stand in front of the new ones, and nothing is stored there."""
    plain = {
        key: value for key, value in body.items() if key not in {"previous_response_id", "store"}
    }
    plain["store"] = False
    if earlier is None:
        return plain
    return {**plain, "input": [*earlier.items, *_said(earlier.response), *items(body.get("input"))]}


def wants_store(body: Json) -> bool:
    """Say whether the caller wants it kept; the API's default is yes."""
    return body.get("store") is not False


def finished(raw: bytes, *, streamed: bool) -> Json | None:
    """Return the response object from the last bytes of an answer, or None if it was no response."""
    try:
        value = json.loads(last_event(raw) if streamed else raw)
    except ValueError:
        return None
    if streamed and isinstance(value, dict):
        value = value.get("response")
    return value if isinstance(value, dict) and value.get("object") == "response" else None


def told(response: Json, request: Json) -> Json:
    """Return a response as its caller is told of it, in a stream, in a document and in the stored copy alike.

    This room owns the id of the earlier one and whether it is kept; instructions are the caller's own, without what a role puts before them. Where the
    longest answer cut it, its last item is incomplete as well.
    """
    asked = {name: request[name] for name in ("metadata",) if request.get(name) is not None}
    whole = {
        **response,
        **asked,
        "instructions": request.get("instructions"),
        "previous_response_id": request.get("previous_response_id"),
        "store": wants_store(request),
    }
    output = response.get("output")
    if response.get("status") == "incomplete" and isinstance(output, list) and output:
        last = output[-1]
        if isinstance(last, dict):
            whole["output"] = [*output[:-1], {**last, "status": "incomplete"}]
        whole["incomplete_details"] = response.get("incomplete_details") or {
            "reason": "max_output_tokens"
        }
    return whole


def _said(response: Json) -> list[Any]:
    """Return what the model said, as items to put before the next turn. Thoughts are left out, as the API does without encrypted content."""
    out: list[Any] = []
    for item in response.get("output") or []:
        if isinstance(item, dict) and item.get("type") == "message":
            text = "".join(
                str(part.get("text", ""))
                for part in item.get("content") or []
                if isinstance(part, dict)
            )
            out.append({"type": "message", "role": "assistant", "content": text})
        elif isinstance(item, dict) and item.get("type") == "function_call":
            out.append(item)
    return out
