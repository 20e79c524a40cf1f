"""config.example.yaml, generated from the models: every key with its default and what it is for.

Knows pydantic's fields. Does not know what the keys mean: their own descriptions say it.
"""

from __future__ import annotations

import types
import typing
from typing import Final

import yaml
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine.config import EngineExecutor, RemoteExecutor
from consilium.gateway.config import Profile, Role
from consilium.kernel.live_config import live_sections
from consilium.lora_router.config import Adapter

HEAD: Final = """\
# consilium.yaml with every key, its default and what it is for. Leave out what you do not change.
# Made by `consilium config example`. Order: flag > environment (CONSILIUM_GATEWAY__PORT=8000) > this file > default.
"""

LIVE_LINE: Final = "A running cluster takes changes over: consilium apply."

# Sections whose names the owner chooses: one example of each, commented out.
_NAMED: Final[dict[str, tuple[tuple[str, type[BaseModel], dict[str, object]], ...]]] = {
    "executors": (
        ("coder", EngineExecutor, {"model": "Qwen/Qwen3-8B"}),
        (
            "rented",
            RemoteExecutor,
            {
                "kind": "remote",
                "url": "https://example.org/v1",
                "model": "some-model",
                "key_env": "RENTED_KEY",
            },
        ),
    ),
    "adapters": (("sport", Adapter, {"path": "adapters/sport"}),),
    "roles": (
        ("philosopher", Role, {"frame": "You think before you answer.", "profile": "think"}),
    ),
    "profiles": (("brief", Profile, {"thinking": False, "max_tokens": 200}),),
}


def example() -> str:
    """Return the whole file."""
    lines = [HEAD]
    for name, field in ConsiliumConfig.model_fields.items():
        lines += _field(name, field, ConsiliumConfig(), 0)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _field(name: str, field: FieldInfo, owner: BaseModel, depth: int) -> list[str]:
    indent = "  " * depth
    value = getattr(owner, name)
    said = [f"{indent}# {line}" for line in _description(field)]
    if depth == 0 and name in live_sections(ConsiliumConfig):
        said.append(f"{indent}# {LIVE_LINE}")
    if isinstance(value, BaseModel):
        inner = [
            line
            for key, below in type(value).model_fields.items()
            for line in _field(key, below, value, depth + 1)
        ]
        head = [f"{indent}# {line}" for line in [_doc(type(value))] if not said]
        return [*said, *head, f"{indent}{name}:", *inner]
    if name in _NAMED and depth == 0:
        return [*said, f"{indent}{name}: {{}}", *_named(name)]
    left_out = _model_in(field.annotation) if value is None else None
    below = [] if left_out is None else _rows(left_out(), "  " * depth)
    return [*said, f"{indent}{name}: {_scalar(value)}{_choices(field)}", *below]


def _named(section: str) -> list[str]:
    lines = []
    for name, model, values in _NAMED[section]:
        lines.append(f"#  {name}:  # {_doc(model)}")
        lines += _rows(model(**values), "  ")
    return lines


def _rows(filled: BaseModel, indent: str) -> list[str]:
    """Return the keys of a model, commented out, one level below `indent`."""
    lines = []
    for key, field in type(filled).model_fields.items():
        if key == "engine":
            lines.append(f"#{indent}  engine: {{}}  # the same keys as engine:, each optional")
            continue
        said = " ".join([*_description(field), *_choices_after(field)])
        shown = _scalar(getattr(filled, key))
        lines.append(f"#{indent}  {key}: {shown}" + (f"  # {said}" if said else ""))
    return lines


def _description(field: FieldInfo) -> list[str]:
    return [field.description] if field.description else []


def _doc(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0]


def _scalar(value: object) -> str:
    if value is None or isinstance(value, SecretStr):
        return "null"
    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        .replace("\n...", "")
        .strip()
    )


def _choices(field: FieldInfo) -> str:
    """Return the values that a key may take, where they are few."""
    names = [str(item) for item in _literals(field.annotation)]
    return f"  # {' | '.join(names)}" if len(names) > 1 else ""


def _choices_after(field: FieldInfo) -> list[str]:
    """Return the values that a key may take as they stand after what it is for."""
    told = _choices(field).removeprefix("  # ")
    return [f"({told})"] if told else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Return the model that an optional key takes, or None where it takes none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = map(_model_in, typing.get_args(annotation))
    return next((model for model in inner if model is not None), None)


def _literals(annotation: object) -> list[object]:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return list(typing.get_args(annotation))
    if origin in {typing.Union, types.UnionType}:
        return [item for inner in typing.get_args(annotation) for item in _literals(inner)]
    return []
