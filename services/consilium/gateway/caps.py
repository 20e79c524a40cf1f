"""How much one request may ask the engine to compile or to look at for every token: constraints, stops, biases, tools.

The engine takes these at any size, and works at them for seconds or for every step of everybody's batch. The limits are far above what the public API of
OpenAI allows. Pure. Checks sizes only: whether a value is right is the engine's to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from consilium.engine.ports import Json
from consilium.kernel.errors import ConsiliumError

MOST: Final[Mapping[str, int]] = {
    "stop": 64,
    "stop_token_ids": 1024,
    "bad_words": 512,
    "logit_bias": 2048,
    "allowed_token_ids": 262_144,
    "tools": 256,
    "messages": 8192,
}
"""Entries of a list or an object."""
LONGEST_STOP: Final = 1024
LONGEST_REGEX: Final = 8192
LONGEST_GRAMMAR: Final = 131_072
"""Characters of one text; of a schema written as JSON, and of all choices together."""
MOST_CHOICES: Final = 4096


def check_caps(body: Json) -> None:
    """Raise ConsiliumError(invalid_request) for the first field that is larger than its limit, with both numbers."""
    for name, limit in MOST.items():
        value = body.get(name)
        if isinstance(value, list | dict) and len(value) > limit:
            raise _above(name, len(value), limit, "entries")
    for name in ("stop", "bad_words"):
        for text in _texts(body.get(name)):
            if len(text) > LONGEST_STOP:
                raise _above(name, len(text), LONGEST_STOP, "characters in one text")
    for name, schema in _schemas(body):
        size = len(schema) if isinstance(schema, str) else len(json.dumps(schema))
        if size > LONGEST_GRAMMAR:
            raise _above(name, size, LONGEST_GRAMMAR, "characters")
    asked = body.get("structured_outputs")
    if isinstance(asked, dict):
        _check_constraint(asked)


def _check_constraint(asked: Mapping[str, Any]) -> None:
    for name in ("regex", "whitespace_pattern"):
        text = asked.get(name)
        if isinstance(text, str) and len(text) > LONGEST_REGEX:
            raise _above(f"structured_outputs.{name}", len(text), LONGEST_REGEX, "characters")
    choices = _texts(asked.get("choice"))
    if len(choices) > MOST_CHOICES:
        raise _above("structured_outputs.choice", len(choices), MOST_CHOICES, "entries")
    if (size := sum(map(len, choices))) > LONGEST_GRAMMAR:
        raise _above("structured_outputs.choice", size, LONGEST_GRAMMAR, "characters in all")


def _schemas(body: Json) -> Iterator[tuple[str, Any]]:
    """Yield (field, grammar or schema) wherever one may stand: structured outputs, response formats of three APIs, tools."""
    asked = body.get("structured_outputs")
    if isinstance(asked, dict):
        for name in ("json", "grammar", "structural_tag"):
            if asked.get(name) is not None:
                yield f"structured_outputs.{name}", asked[name]
    if isinstance(body.get("response_format"), dict):
        yield "response_format", body["response_format"]
    text = body.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict):
        yield "text.format", text["format"]
    if isinstance(tools := body.get("tools"), list):
        for place, tool in enumerate(tools):
            yield f"tools.{place}", tool


def _texts(value: object) -> Sequence[str]:
    if isinstance(value, str):
        return (value,)
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else ()


def _above(field: str, size: int, limit: int, unit: str) -> ConsiliumError:
    return ConsiliumError(
        "invalid_request", field=field, reason=f"it has {size} {unit}, and the limit is {limit}"
    )
