"""What a form or a JSON body says of an adapter, as settings of its name.

The same keys as an entry of `adapters:` in the configuration, but for the path; lists may be written as one text with commas (executors), or a line each. Knows
requests and the configuration's own rules. Does not know files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from consilium.kernel import config_refusal
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.config import Adapter
from consilium.lora_router.ports import Placement, Registered

NAME: Final = "name"
FORCE: Final = "force"
KEYS: Final = tuple(key for key in Adapter.model_fields if key != "path")
_COMMAS: Final = frozenset({"executors"})
_LINES: Final = frozenset({"examples", "triggers"})
_TRUE: Final = frozenset({"true", "1", "yes"})
_FALSE: Final = frozenset({"false", "0", "no", ""})


@dataclass(frozen=True, slots=True)
class Said:
    """What was said.

    force     it may answer although no engine has tried it
    settings  those keys that were named
    """

    name: str
    force: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


def from_form(fields: Mapping[str, str]) -> Said:
    """Return what the fields of a form say. Raises ConsiliumError(invalid_request)."""
    said: dict[str, Any] = dict(fields)
    for key, text in fields.items():
        if key in _COMMAS:
            said[key] = [part.strip() for part in text.split(",") if part.strip()]
        elif key in _LINES:
            said[key] = [line.strip() for line in text.splitlines() if line.strip()]
        elif key in (FORCE, "isolated"):
            said[key] = _truth(key, text)
        elif key in ("weight", "core_weight", "threshold"):
            said[key] = _number(key, text)
    return _said(said)


def from_body(body: bytes) -> Said:
    """Return what a JSON body says. Raises ConsiliumError(invalid_request)."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise _wrong("body", 'it must be a JSON object, such as {"name": "sport"}')
    return _said(said)


def merged(said: Said, before: Registered | None) -> Registered | None:
    """Return the settings of the name: those from before, with what was said now; None where nothing was said, or what was said is so already."""
    if not said.settings:
        return None
    now = before or Registered(said.name, "")
    values = {key: getattr(now, key) for key in KEYS} | dict(said.settings)
    values["with_core"] = values["with_core"] or None
    checked = _checked(values)
    return registered(said.name, checked, from_config=now.from_config)


def registered(name: str, adapter: Adapter, *, from_config: bool) -> Registered:
    """Return what the registry keeps of an entry of the configuration."""
    return Registered(
        name=name,
        current="",
        placement=Placement(adapter.placement),
        from_config=from_config,
        with_core=adapter.with_core or "",
        core_weight=adapter.core_weight,
        weight=adapter.weight,
        isolated=adapter.isolated,
        executors=adapter.executors,
        domain=adapter.domain,
        examples=adapter.examples,
        triggers=adapter.triggers,
        threshold=adapter.threshold,
    )


def _said(said: dict[str, Any]) -> Said:
    name, force = said.pop(NAME, None), said.pop(FORCE, False)
    if not isinstance(name, str) or not name:
        raise _wrong(NAME, "say how the adapter is to be called")
    if not isinstance(force, bool):
        raise _wrong(FORCE, "it is true or false")
    unknown = sorted(set(said) - set(KEYS))
    if unknown:
        reason, _ = config_refusal.no_such(unknown[0], "key", (NAME, FORCE, *KEYS))
        raise _wrong(unknown[0], reason)
    _checked(said)
    return Said(name, force, said)


def _checked(values: Mapping[str, Any]) -> Adapter:
    try:
        return Adapter.model_validate({"path": ".", **values})
    except ValidationError as err:
        told = config_refusal.told(err, Adapter, None, {})
        raise _wrong(str(told.fields["key"]), str(told.fields["reason"])) from None


def _truth(key: str, value: str) -> bool:
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise _wrong(key, "it is true or false")


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise _wrong(key, "it is a number") from None


def _wrong(key: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=key, reason=reason, param=key)
