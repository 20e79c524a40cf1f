"""The words of a turn, read from a request body: what the rules of profiles and adapters go by.

Pure. Knows the shapes of the OpenAI routes. Does not know what is made of the words.
"""

from __future__ import annotations

from consilium.engine.ports import Json


def messages_of(body: Json) -> list[Json]:
    """Return the messages of a chat body that have the shape of one."""
    found = body.get("messages")
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def text(body: Json) -> str:
    """Return the words of this turn, for the rule that chooses a profile: the last message of a user, or the prompt."""
    for message in reversed(messages_of(body)):
        if message.get("role") == "user":
            return words_of(message.get("content"))
    for key in ("prompt", "input"):
        value = body.get(key)
        if isinstance(value, str):
            return value
        if key == "input" and isinstance(value, list) and value and isinstance(value[-1], dict):
            return words_of(value[-1].get("content"))
    return ""


def words_of(content: object) -> str:
    """Return the text of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""
