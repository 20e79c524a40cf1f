"""Roles: a named frame that is put before what the caller says.

Knows the configured roles and how a frame joins messages, prompts and instructions. Does not know which executor is up, nor what a profile does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from consilium.engine.ports import Json
from consilium.gateway.config import Role
from consilium.kernel.errors import ConsiliumError

BLANK_LINE: Final = "\n\n"
SYSTEM: Final = ("system", "developer")
"""A tuple: a caller may send any JSON as a role, and a list cannot be looked up in a set."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One role, ready to be used.

    text      system prompt, without white space around it; may be empty
    profile   name of a profile, or auto
    executor  executor that the role asks for, or None
    fallback  executor that answers when the first is down, or None
    adapters  adapters that answer in it, as in the configuration
    adapters_optional  whether it answers without them where they cannot
    """

    role: str
    text: str
    profile: str = "auto"
    executor: str | None = None
    fallback: str | None = None
    adapters: tuple[str, ...] = ()
    adapters_optional: bool = False


def read(roles: Mapping[str, Role], base_dir: Path) -> dict[str, Frame]:
    """Return role -> frame. Frame files are read here, once; relative ones lie under `base_dir`. Raises ConsiliumError(config_invalid) with the path."""
    return {
        name: Frame(
            name,
            _text(name, role, base_dir).strip(),
            role.profile,
            role.executor,
            role.fallback,
            role.adapters,
            role.adapters_optional,
        )
        for name, role in roles.items()
    }


def frame_messages(frame: Frame, messages: Sequence[Json]) -> list[Json]:
    """Return the messages with one system message first: the frame, a blank line, the caller's own system and developer text.

    The caller's own text is what stands in the system and developer messages before the first other message; all later messages stay as they are, the same
    objects. Content parts of text are joined with newlines, as engines do for templates that know only text; other parts are kept as parts.
    """
    if not frame.text:
        return list(messages)
    own = 0
    while own < len(messages) and messages[own].get("role") in SYSTEM:
        own += 1
    contents = [message.get("content") for message in messages[:own]]
    first: Json = {
        **(messages[0] if own else {}),
        "role": "system",
        "content": _joined(frame.text, contents),
    }
    return [first, *messages[own:]]


def frame_prompt(frame: Frame, prompt: object) -> object:
    """Return the prompt of /v1/completions with the frame before it; a list of texts gets it before each.

    Raises ConsiliumError(invalid_request) for token ids, which a text cannot be joined to.
    """
    if not frame.text:
        return prompt
    if isinstance(prompt, str):
        return f"{frame.text}{BLANK_LINE}{prompt}" if prompt else frame.text
    if _is_texts(prompt):
        return [frame_prompt(frame, text) for text in prompt]
    raise ConsiliumError(
        "invalid_request",
        field="prompt",
        reason=f"role/{frame.role} has a frame, and that is joined to text only; send text instead of token ids",
    )


def frame_instructions(frame: Frame, instructions: str | None) -> str | None:
    """Return the `instructions` of /v1/responses with the frame before them."""
    texts = [text for text in (frame.text, instructions) if text]
    return BLANK_LINE.join(texts) if texts else instructions


def _text(name: str, role: Role, base_dir: Path) -> str:
    if role.frame_file is None:
        return role.frame or ""
    path = base_dir / Path(role.frame_file).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        reason = err.strerror or str(err)
    except UnicodeDecodeError as err:
        reason = f"not UTF-8 text (byte {err.start})"
    raise ConsiliumError(
        "config_invalid",
        key=f"roles.{name}.frame_file",
        reason=f"{path} cannot be read: {reason}",
        path=str(path),
    )


def _joined(text: str, contents: Sequence[object]) -> object:
    texts = [text]
    parts: list[object] = []
    for content in contents:
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list) and all(_is_text_part(part) for part in content):
            texts.append("\n".join(str(part["text"]) for part in content))
        elif isinstance(content, list):
            parts += content
        elif content is not None:
            raise ConsiliumError(
                "invalid_request",
                field="messages",
                reason="the content of a system message must be text or a list of parts",
            )
    joined = BLANK_LINE.join(found for found in texts if found)
    return [{"type": "text", "text": joined}, *parts] if parts else joined


def _is_texts(prompt: object) -> TypeGuard[list[str]]:
    return isinstance(prompt, list) and all(isinstance(text, str) for text in prompt)


def _is_text_part(part: object) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
