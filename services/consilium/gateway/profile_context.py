"""The context of a profile: prompt and answer together within a number of tokens, though the model may hold more.

Costs one question to the executor's own tokenizer, and only under a profile that has such a limit. Asked anew for each executor that is tried. Does not
know what the model itself can hold: that is the engine's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.engine.client import Call, EngineClient
from consilium.engine.ports import Json, Route
from consilium.gateway import conversation, lengths
from consilium.gateway.decision import Decision
from consilium.gateway.lengths import count_of
from consilium.kernel.errors import ConsiliumError

_PASSED_ON: Final = (
    "messages",
    "tools",
    "chat_template_kwargs",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A body whose answer ends where the profile's context does, and a note where that could not be kept."""

    body: Json
    note: str = ""


async def fit(
    engine: EngineClient,
    decision: Decision,
    *,
    executor: str,
    given: Json,
    body: Json,
    route: Route,
    call_id: str,
    deadline: float,
    trace: Mapping[str, str],
) -> Fitted:
    """Return the body for one executor, its answer within the profile's context.

    given  the request as the caller sent it: a length that it names itself is kept or refused, never cut
    body   what the executor would be sent

    Raises ConsiliumError(invalid_request) if the prompt alone, or with the length that the caller asks for, is longer. What the engine cannot count it will
    refuse in its own words.
    """
    context = decision.settings.context if decision.settings is not None else None
    if context is None:
        return Fitted(body)
    asked_of = {**_prompt(body, route), "model": engine.info(executor).model}
    try:
        call = Call(
            f"{call_id}-count",
            "tokenize",
            asked_of,
            deadline=deadline,
            trace=trace,
        )
        async with await engine.open(executor, call) as turn:
            used = _counted(b"".join([chunk async for chunk in turn]))
    except ConsiliumError as error:
        if error.code != "not_supported":
            raise
        used = None
    if used is None:
        return Fitted(
            body,
            f"the context of the profile {decision.profile!r} was not kept: the executor {executor} did not count the prompt",
        )
    left = context - used
    asked = lengths.asked(given, route)
    if left < (asked or 1):
        field = "messages" if route == "chat" else "prompt" if route == "completions" else "input"
        wish = f" and {asked} are asked for" if asked else ""
        reason = f"it has {used} tokens{wish}, and the profile {decision.profile!r} holds {context} in all. Shorten it or choose another profile"
        raise ConsiliumError("invalid_request", field=field, reason=reason)
    if asked:
        return Fitted(body)
    return Fitted(lengths.limited(body, route, min(left, lengths.asked(body, route) or left)))


def _counted(raw: bytes) -> int | None:
    """Return the count of an answer of /tokenize, or None if it is another thing."""
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return count_of(found.get("count")) if isinstance(found, dict) and "count" in found else None


def _prompt(body: Json, route: Route) -> dict[str, Any]:
    """Return what the tokenizer has to read."""
    if route == "chat":
        return {name: body[name] for name in _PASSED_ON if body.get(name) is not None}
    if route == "completions":
        return {"prompt": body.get("prompt")}
    messages: list[dict[str, str]] = (
        [{"role": "system", "content": str(body["instructions"])}]
        if body.get("instructions")
        else []
    )
    for item in conversation.items(body.get("input")):
        if isinstance(item, dict):
            role = str(item.get("role") or ("tool" if "output" in item else "assistant"))
            messages.append({"role": role, "content": _text(item)})
    return {"messages": messages}


def _text(item: Mapping[str, Any]) -> str:
    """Return the words of one item of the Responses API: a message, a call or what it returned."""
    content = item.get("content") or item.get("arguments") or item.get("output") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content)
