"""Configuration: one frozen tree per process, from flags, environment, one YAML file and defaults.

    flag  >  environment (CONSILIUM_GATEWAY__PORT=8000)  >  file (consilium.yaml)  >  default

This order is written here and nowhere else, and nothing else in the house reads the environment. Knows keys and origins. Does not know what they mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from consilium.kernel import masking, yaml_source
from consilium.kernel.config_refusal import ENVIRONMENT as PREFIX
from consilium.kernel.config_refusal import told
from consilium.kernel.errors import ConsiliumError

NOT_KEYS: Final = frozenset(
    {"STATE", "CONFIG", "ENDPOINT", "KEY", "LOG", "SECRET", "TOKEN", "MARK", "ROOMS", "ADMIN_KEY"}
)
"""CONSILIUM_ names that are not keys of the tree: they say where things are."""
MASK: Final = masking.MASK

LIVE: Final[dict[str, Any]] = {"live": True}
"""Beside a field (`json_schema_extra`): running processes take a change of it over; kernel/live_config.py reads it."""

Origin = Literal["default", "file", "environment", "flag"]


def restarts(part: str) -> dict[str, Any]:
    """Return what stands beside a field (`json_schema_extra`): a change of it needs this part started again. Unsaid, it is the section's own name."""
    return {"restarts": part}


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


def load(
    root: type[T],
    *,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> Loaded[T]:
    """Return the tree.

    root   the model of the whole tree
    path   YAML file, or None
    env    environment, by default that of the process; names are CONSILIUM_A__B, values are YAML scalars or flow collections
    flags  dotted key -> value

    Raises ConsiliumError(config_invalid): file missing or no YAML (with its line), a key twice, unknown key (with the nearest known one), bad value (with the value).
    """
    tree: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    if path is not None:
        tree = yaml_source.read(path)
        _note(tree, "", "file", origins)
    for key, value in _from_environment(os.environ if env is None else env):
        _put(tree, key, value, "environment", origins)
    for key, value in (flags or {}).items():
        _put(tree, key, value, "flag", origins)
    try:
        return Loaded(root.model_validate(tree), origins)
    except ValidationError as err:
        raise told(err, root, path, origins) from None


def load_json(root: type[T], path: Path) -> T:
    """Return the sections that a process reads from the resolved tree. Raises ConsiliumError(config_invalid)."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise ConsiliumError(
            "config_invalid", key=str(path), reason=err.strerror or str(err)
        ) from None
    except ValueError as err:
        raise ConsiliumError("config_invalid", key=str(path), reason=f"not JSON: {err}") from None
    try:
        return root.model_validate(tree)
    except ValidationError as err:
        raise told(err, root, path, {}) from None


def load_view(view: type[T], path: Path) -> T:
    """Return the sections that a process reads: from the resolved tree (.json), or from YAML with the environment over it.

    On one machine `up` resolves the tree once for all; in Kubernetes each process reads the file itself. Raises ConsiliumError(config_invalid).
    """
    return load_json(view, path) if path.suffix == ".json" else load(view, path=path).value


def internal_token(folder: Path) -> str:
    """Return the token by which the services of a cluster know each other: CONSILIUM_TOKEN, else the file `token` in a folder.

    Raises ConsiliumError(config_invalid) if there is none.
    """
    named = environment_value(f"{PREFIX}TOKEN")
    file = folder / "token"
    try:
        token = named if named is not None else file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        token = ""
    if not token.strip():
        raise ConsiliumError(
            "config_invalid",
            key=f"{PREFIX}TOKEN",
            reason=f"the internal token is missing; put it there or into {file}",
        )
    return token.strip()


def added_rooms() -> str | None:
    """Return CONSILIUM_ROOMS, which names rooms that are not ours: `kernel.rooms.rooms(added_rooms())` is the whole table."""
    return environment_value(f"{PREFIX}ROOMS")


def dump(tree: BaseModel, *, masked: bool) -> dict[str, Any]:
    """Return the tree as plain values. Secrets are masked, or written out for the processes that need them."""
    plain: dict[str, Any] = masking.plain(tree, masked=masked)
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


def folder_of(config: Path) -> Path:
    """Return the folder in which the processes of a cluster keep what is theirs: that of the configuration, where `up` has made it.

    In Kubernetes the configuration is YAML in a folder that nobody may write to: there it is CONSILIUM_STATE.
    """
    named = environment_value(f"{PREFIX}STATE")
    if config.suffix == ".json" or named is None:
        return config.resolve().parent
    return Path(named).expanduser()


def _from_environment(env: Mapping[str, str]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, text in sorted(env.items()):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in NOT_KEYS:
            key = name.removeprefix(PREFIX).lower().replace("__", ".")
            try:
                found.append((key, yaml_source.value_of(text)))
            except yaml.YAMLError:
                found.append((key, text))
    return found


def _put(
    tree: dict[str, Any], key: str, value: object, origin: Origin, origins: dict[str, Origin]
) -> None:
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
