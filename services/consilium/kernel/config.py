"""Configuration: one frozen tree per process, from flags, environment, one YAML file and defaults.

    flag  >  environment (CONSILIUM_GATEWAY__PORT=8000)  >  file (consilium.yaml)  >  default

This order is written here and nowhere else, and nothing else in the house reads the environment. Knows keys and origins. Does not know what they mean.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from consilium.kernel.errors import ConsiliumError

PREFIX: Final = "CONSILIUM_"
NOT_KEYS: Final = frozenset({"STATE", "CONFIG", "ENDPOINT", "KEY", "LOG", "SECRET", "MARK"})
"""CONSILIUM_ names that are not keys of the tree: they say where things are."""
MASK: Final = "********"

Origin = Literal["default", "file", "environment", "flag"]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A tree and where each of its values came from (dotted key -> origin; keys that are absent came from the default)."""

    value: T
    origins: Mapping[str, Origin]

    def origin(self, key: str) -> Origin:
        """Return the origin of a dotted key: its own, or that of the nearest section above it that was given whole."""
        parts = key.split(".")
        for end in range(len(parts), 0, -1):
            found = self.origins.get(".".join(parts[:end]))
            if found is not None:
                return found
        return "default"


def load(root: type[T], *, path: Path | None = None, env: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None) -> Loaded[T]:
    """Return the tree.

    root   the model of the whole tree
    path   YAML file, or None
    env    environment, by default that of the process; names are CONSILIUM_A__B, values are YAML scalars or flow collections
    flags  dotted key -> value

    Raises ConsiliumError(config_invalid): file missing or no YAML (with its line), unknown key (with the nearest known one), bad value (with the value).
    """
    tree: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    if path is not None:
        tree = _read_yaml(path)
        _note(tree, "", "file", origins)
    for key, value in _from_environment(os.environ if env is None else env):
        _put(tree, key, value, "environment", origins)
    for key, value in (flags or {}).items():
        _put(tree, key, value, "flag", origins)
    try:
        return Loaded(root.model_validate(tree), origins)
    except ValidationError as err:
        raise _told(err, root, tree, path, origins) from None


def load_json(root: type[T], path: Path) -> T:
    """Return the sections that a process reads from the resolved tree. Raises ConsiliumError(config_invalid)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConsiliumError("config_invalid", key=str(path), reason=err.strerror or str(err)) from None
    except ValueError as err:
        raise ConsiliumError("config_invalid", key=str(path), reason=f"not JSON: {err}") from None
    try:
        return root.model_validate(tree)
    except ValidationError as err:
        raise _told(err, root, tree, path, {}) from None


def dump(tree: BaseModel, *, masked: bool) -> dict[str, Any]:
    """Return the tree as plain values. Secrets are masked, or written out for the processes that need them."""
    plain: dict[str, Any] = _plain(tree, masked=masked)
    return plain


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value; empty mappings and lists stay values."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out.update(flatten(value, f"{dotted}."))
        else:
            out[dotted] = value
    return out


def environment_value(name: str) -> str | None:
    """Return one variable of the environment, or None if it is unset or empty."""
    return os.environ.get(name) or None


def default_state() -> Path:
    """Return the state folder: CONSILIUM_STATE, else $XDG_STATE_HOME/consilium, else ~/.local/state/consilium."""
    if named := environment_value(f"{PREFIX}STATE"):
        return Path(named).expanduser()
    base = environment_value("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "consilium"


_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
_USERINFO: Final = re.compile(r"://[^/@\s]+@")


def _plain(value: Any, *, masked: bool) -> Any:
    if isinstance(value, SecretStr):
        return MASK if masked else value.get_secret_value()
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name), masked=masked) for name in type(value).model_fields}
    if isinstance(value, Mapping):  # names of the owner's choice: variables of a process, extra arguments
        return {key: MASK if masked and isinstance(item, str) and _SECRET_NAME.search(str(key)) else _plain(item, masked=masked) for key, item in value.items()}
    if masked and isinstance(value, str):
        return _USERINFO.sub(f"://{MASK}@", value)
    if isinstance(value, list | tuple):
        return [_plain(item, masked=masked) for item in value]
    return str(value) if isinstance(value, Path) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        reason = (err.strerror if isinstance(err, OSError) else None) or str(err)
        raise ConsiliumError("config_invalid", key=str(path), reason=f"cannot be read: {reason}") from None
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConsiliumError("config_invalid", key=str(path), reason=f"not YAML: {where}{getattr(err, 'problem', None) or err}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConsiliumError("config_invalid", key=str(path), reason="the file must hold keys and values, such as 'model: demo'")
    return tree


def _from_environment(env: Mapping[str, str]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, text in sorted(env.items()):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_KEYS:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            try:
                found.append((key, yaml.safe_load(text)))
            except yaml.YAMLError:
                found.append((key, text))
    return found


def _put(tree: dict[str, Any], key: str, value: object, origin: Origin, origins: dict[str, Origin]) -> None:
    *path, last = key.split(".")
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            below = tree[part] = {}
        tree = below
    tree[last] = value
    origins[key] = origin


def _note(tree: Mapping[str, Any], prefix: str, origin: Origin, origins: dict[str, Origin]) -> None:
    for key in flatten(tree, prefix):
        origins[key] = origin


def _told(err: ValidationError, root: type[BaseModel], data: object, path: Path | None, origins: Mapping[str, Origin]) -> ConsiliumError:
    errors = err.errors(include_url=False)
    # A typo in a key is told before the key that is missing because of it.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    place = _place(first["loc"], data)
    key = ".".join(str(part) for part in place) or "the file"
    if first["type"] == "extra_forbidden":
        known = _keys_at(root, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, n=1, cutoff=0.5)
        hint = f"The nearest known key is {near[0]!r}" if near else f"Known keys are {', '.join(sorted(known))}"
        reason, nearest = f"there is no such key. {hint}", near[0] if near else None
    else:
        said = first["msg"].removeprefix("Value error, ")
        given = first.get("input")
        shown = "" if isinstance(given, dict | list | BaseModel) or _is_secret(root, place) else f" (it is {given!r})"
        reason, nearest = said + shown, None
    where = _where(path, place, origins.get(key))
    return ConsiliumError("config_invalid", key=key, reason=reason + where, nearest=nearest)


def _place(location: tuple[int | str, ...], data: Any) -> list[int | str]:
    """Return the location without the tags of unions, which pydantic adds and no file holds: a part is kept if it is a key, or ends the location."""
    place: list[int | str] = []
    for number, part in enumerate(location):
        known = part in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(part, int) and part < len(data)
        if known:
            data = data[part]
        elif number + 1 < len(location) or not isinstance(data, Mapping):
            continue
        place.append(part)
    return place


def _where(path: Path | None, place: list[int | str], origin: Origin | None) -> str:
    if origin == "environment":
        return f" (from {PREFIX}{'__'.join(str(part).upper() for part in place)})"
    if origin == "flag" or path is None or path.suffix == ".json":
        return ""
    line = _line_of(path, place)
    return f" ({path.name}, line {line})" if line else ""


def _line_of(path: Path, place: list[int | str]) -> int | None:
    """Return the line of a key in the YAML file, counted from 1."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, yaml.YAMLError):
        return None
    line = None
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _keys_at(root: type[BaseModel], place: list[int | str]) -> list[str]:
    """Return the known keys of the section at a place of the tree."""
    models = [root]
    for part in place:
        models = [found for model in models for found in _below(model, part)]
    return sorted({name for model in models for name in model.model_fields})


def _is_secret(root: type[BaseModel], place: list[int | str]) -> bool:
    models = [root]
    for part in place[:-1]:
        models = [found for model in models for found in _below(model, part)]
    fields = [model.model_fields[str(part)].annotation for model in models for part in place[-1:] if str(part) in model.model_fields]
    return any(annotation is SecretStr or SecretStr in typing.get_args(annotation) for annotation in fields)


def _below(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    info = model.model_fields.get(str(part))
    return _models_in(info.annotation) if info is not None else [model]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return every model that an annotation mentions: itself, the members of a union, the values of a dict or list."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _models_in(inner)]
