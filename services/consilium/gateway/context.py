"""The context of a profile: prompt and answer together within a number of tokens, though the model may hold more.

Costs one question to the executor's own tokenizer, and only under a profile that has such a limit. Knows the fields that name an answer's length. Does not
know what the model itself can hold: that is the engine's to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from consilium.engine.client import Call, EngineClient
from consilium.engine.ports import Json, Route
from consilium.gateway import conversation
from consilium.gateway.admission import count_of
from consilium.gateway.plan import Plan
from consilium.kernel.errors import ConsiliumError

LENGTHS: Final[Mapping[Route, tuple[str, ...]]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
_PASSED_ON: Final = (
    "messages",
    "tools",
    "chat_template_kwargs",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
)


async def fit(
    engine: EngineClient, plan: Plan, given: Json, route: Route, *, call_id: str, deadline: float
) -> None:
    """Make the answer end where the profile's context does.

    Raises ConsiliumError(invalid_request) if the prompt alone, or with the length that the caller asks for, is longer. What the engine cannot count it will
    refuse in its own words.
    """
    if plan.context is None:
        return
    body = {**_prompt(plan.body, route), "model": engine.info(plan.executor).model}
    try:
        async with await engine.open(
            plan.executor, Call(f"{call_id}-count", "tokenize", body, deadline=deadline)
        ) as turn:
            used = _counted(b"".join([chunk async for chunk in turn]))
    except ConsiliumError as error:
        if error.code != "not_supported":
            raise
        used = None
    if used is None:
        plan.notes.append(
            f"the context of the profile {plan.profile!r} was not kept: the executor {plan.executor} did not count the prompt"
        )
        return
    left = plan.context - used
    names = LENGTHS[route]
    asked = next((count for name in names if (count := count_of(given.get(name)))), 0)
    if left < (asked or 1):
        field = "messages" if route == "chat" else "prompt" if route == "completions" else "input"
        wish = f" and {asked} are asked for" if asked else ""
        reason = f"it has {used} tokens{wish}, and the profile {plan.profile!r} holds {plan.context} in all. Shorten it or choose another profile"
        raise ConsiliumError("invalid_request", field=field, reason=reason)
    if not asked:
        wished = next((count for name in names if (count := count_of(plan.body.get(name)))), left)
        plan.body = {
            **{key: value for key, value in plan.body.items() if key not in names},
            names[0]: min(left, wished),
        }


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
