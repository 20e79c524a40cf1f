"""Which conversation a turn belongs to: the caller says so, or its client does, or the messages do.

    x-consilium-conversation  >  metadata.conversation_id  >  headers of known clients  >  the chain of the messages

The chain is a hash over the key and all messages up to the first of a user: every turn of one conversation begins with the same ones. Two conversations that
one key opens with the very same words share a name; who needs them apart sends one. Knows headers and bodies. Does not know what a name is used for.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Final

from consilium.engine.ports import Json
from consilium.kernel.errors import ConsiliumError

HEADER: Final = "x-consilium-conversation"
CLIENTS: Final = ("x-openwebui-chat-id", "x-conversation-id", "x-session-id")
"""Headers of clients that name their conversations: Open WebUI (ENABLE_FORWARD_USER_INFO_HEADERS), LibreChat by configuration, agents."""
_SPELLING: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def named(headers: Mapping[str, str], body: Json, key_id: str) -> str:
    """Return the name of a turn's conversation; empty where nothing tells, as for a plain completion.

    headers  names in lower case
    """
    metadata = body.get("metadata")
    said = metadata.get("conversation_id") if isinstance(metadata, dict) else None
    for name in (headers.get(HEADER), said, *(headers.get(client) for client in CLIENTS)):
        if isinstance(name, str) and is_name(name):
            return name
    return chained(body, key_id)


def is_name(text: str) -> bool:
    """Say whether a text can name a conversation."""
    return _SPELLING.fullmatch(text) is not None


def check(text: str) -> None:
    """Raise ConsiliumError(invalid_request) if a caller names its conversation by what is no name. Empty names none."""
    if text and not is_name(text):
        raise ConsiliumError(
            "invalid_request",
            field="conversation",
            reason="write 1 to 128 letters, digits, dots, dashes, :, / and _",
        )


def chained(body: Json, key_id: str) -> str:
    """Return a name made of the key and the messages up to the first of a user; empty where there is none."""
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list):
        return ""
    chain = hashlib.sha256(key_id.encode())
    for message in messages:
        if not isinstance(message, dict):
            return ""
        link = [message.get("role"), message.get("content")]
        chain.update(json.dumps(link, sort_keys=True, default=str).encode("utf-8", "replace"))
        if message.get("role") == "user":
            return f"chain:{chain.hexdigest()[:32]}"
    return ""
