"""From the name of a model to what adapters are held against, without downloading or making anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilium.kernel.errors import ConsiliumError
from consilium.supervisor.state_folder import StateFolder

if TYPE_CHECKING:
    from consilium.lora_router.base_modules import Base


def base_of(model: str, folder: StateFolder) -> Base | None:
    """Return the base that an engine of a configuration will serve: from the model's folder, or the planner's table. None where nobody knows it yet."""
    from consilium.lora_router import base_modules

    if (built := _built_in(model)) is not None:
        return built
    config = _config(model, folder)
    try:
        return None if config is None else base_modules.of(config, model)
    except ConsiliumError:
        return None  # a kind that the planner does not know: the engine says what it is


def _config(model: str, folder: StateFolder) -> Mapping[str, Any] | None:
    from consilium.planner import checkpoint
    from consilium.planner.gate_file import known_config

    for path in (Path(model).expanduser(), folder.models / model):
        try:
            return checkpoint.read_json(path / "config.json")
        except FileNotFoundError:
            continue
        except checkpoint.UnreadableError:
            return None
    return known_config(model.partition("@")[0])


def base_named(model: str) -> Base:
    """Return the base that a person names: a model of the table, a folder, or a config.json. Raises ConsiliumError(invalid_request)."""
    from consilium.lora_router import base_modules
    from consilium.planner import models

    if (built := _built_in(model)) is not None:
        return built
    found = models.find(model)
    return base_modules.of(found.config, found.shape.name)


def _built_in(model: str) -> Base | None:
    """Return a tiny model, which stands in for the demo model where that one's wheel is not installed."""
    from consilium.demo import smollm, tiny
    from consilium.lora_router import base_modules

    for kind in tiny.KINDS:
        if model == kind or (model == "demo" and kind == "tiny" and smollm.wheel_file() is None):
            return base_modules.of(tiny.config_of(kind, end=0, turn=0), model)
    return None
