"""The words of a request body: where a frame goes, what the rule of profiles reads, what the prompt begins with.

Knows the shapes of the OpenAI routes. Does not know which role or executor was chosen, nor why.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.ports import Json, Route
from consilium.gateway import roles

PREFIX_CHARACTERS: Final = 512


def framed(frame: roles.Frame, body: Json, route: Route) -> Json:
    """Return the body with a role's frame before what the caller says; the body given stays as it is. Raises ConsiliumError(invalid_request)."""
    if not frame.text:
        return body
    if route == "chat" or (route == "tokenize" and "messages" in body):
        messages = _messages(body)
        whole = isinstance(body.get("messages"), list) and messages == body["messages"]
        # Messages of another shape go on as they are: the engine says what is wrong with them.
        return {**body, "messages": roles.frame_messages(frame, messages)} if whole else body
    if route == "responses":
        own = body.get("instructions")
        return (
            {**body, "instructions": roles.frame_instructions(frame, own)}
            if own is None or isinstance(own, str)
            else body
        )
    if route == "completions" and body.get("prompt") is not None:
        return {**body, "prompt": roles.frame_prompt(frame, body["prompt"])}
    return body


def _messages(body: Json) -> list[Json]:
    found = body.get("messages")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def text(body: Json) -> str:
    """Return the words of this turn, for the rule that chooses a profile: the last message of a user, or the prompt."""
    for message in reversed(_messages(body)):
        if message.get("role") == "user":
            return _words(message.get("content"))
    for key in ("prompt", "input"):
        value = body.get(key)
        if isinstance(value, str):
            return value
        if key == "input" and isinstance(value, list) and value and isinstance(value[-1], dict):
            return _words(value[-1].get("content"))
    return ""


def _words(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def prefix_key(role: str | None, body: Json) -> str:
    """Return the beginning of the prompt, by which the request router finds the replica that has it in its cache."""
    messages = _messages(body)
    if messages:
        return f"{role or ''}:{_words(messages[0].get('content'))[:PREFIX_CHARACTERS]}"
    for key in ("instructions", "prompt"):
        value = body.get(key)
        if isinstance(value, str):
            return f"{role or ''}:{value[:PREFIX_CHARACTERS]}"
    return role or ""
