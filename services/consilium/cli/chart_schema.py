"""values.schema.json of the chart, made from the models: `config:` by those of consilium.yaml, the rest by cli/chart_values.py.

    python -m consilium.cli.chart_schema > helm/consilium/values.schema.json

Helm holds every install, upgrade, lint and template against it, so that a key that nobody reads is refused by name. Knows JSON Schema (draft 2020-12).
Does not know what the keys mean.
"""

from __future__ import annotations

import json
from typing import Any, Final

from consilium.cli.chart_values import ChartValues

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_OURS: Final = frozenset({"title", "default", "live", "restarts", "writeOnly", "format"})
"""What a validator has no use for: pydantic's titles, defaults that values.yaml has, our own marks."""
_REMOTE: Final = {
    "anyOf": [
        {"properties": {"kind": {"const": "remote"}}, "required": ["kind"]},
        {"required": ["url"], "not": {"required": ["kind"]}},
    ]
}
"""What makes an executor a remote one, as engine/config.py reads it."""


def schema() -> dict[str, Any]:
    """Return the schema of the chart's values."""
    made: dict[str, Any] = _clean(ChartValues.model_json_schema())
    made.pop("description", None)
    return {"$schema": DRAFT, "title": "Values of the chart consilium", **made}


def text() -> str:
    """Return the file."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _clean(part: Any, *, names: bool = False) -> Any:
    """Return a part of pydantic's schema without what is its own, closed where it names its keys by a pattern, and with messages that name one thing.

    names  its keys are names of ours, not words of JSON Schema
    """
    if isinstance(part, list):
        return [_clean(item) for item in part]
    if not isinstance(part, dict):
        return part
    if names:
        return {key: _clean(below) for key, below in part.items()}
    found = {
        key: _clean(below, names=key in {"properties", "$defs", "patternProperties"})
        for key, below in part.items()
        if key not in _OURS
    }
    if "patternProperties" in found:
        found["additionalProperties"] = False
    return _or_null(_executor(found))


def _executor(part: dict[str, Any]) -> dict[str, Any]:
    """Return `oneOf` of the two kinds of executors as a question first: else a refusal would tell of both."""
    refs = [one.get("$ref", "") for one in part.get("oneOf", ())]
    if refs != ["#/$defs/EngineExecutor", "#/$defs/RemoteExecutor"]:
        return part
    engine, remote = part["oneOf"]
    return {"type": "object", "if": _REMOTE, "then": remote, "else": engine}


def _or_null(part: dict[str, Any]) -> dict[str, Any]:
    """Return `anyOf` of a plain type and null as one type with two names, and of a model and null as a question first: else a refusal would tell of both."""
    branches = part.get("anyOf", [])
    plain = [one for one in branches if one != {"type": "null"}]
    if len(branches) != 2 or len(plain) != 1:
        return part
    (only,) = plain
    rest = {key: value for key, value in part.items() if key != "anyOf"}
    if "$ref" in only:
        return {**rest, "if": {"type": "null"}, "else": only}
    if not isinstance(only.get("type"), str):
        return part
    joined = {**rest, **only, "type": [only["type"], "null"]}
    if "enum" in only:
        joined["enum"] = [*only["enum"], None]
    return joined


if __name__ == "__main__":
    print(text(), end="")
