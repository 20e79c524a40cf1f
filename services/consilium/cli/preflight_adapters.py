"""Do the adapters fit the models that are about to start? Those of the configuration and those that are stored, looked at before any engine starts.

An adapter that fits nothing is told; one that a role cannot do without refuses the start. Reads headers and config.json, no tensor. Starts nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine.config import EngineExecutor
from consilium.engine.ports import CORE
from consilium.kernel.errors import ConsiliumError
from consilium.planner.gate_file import known_config
from consilium.supervisor.state_folder import StateFolder

if TYPE_CHECKING:
    from consilium.lora_router.base_modules import Base
    from consilium.lora_router.fit import Wanted

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One adapter.

    key        what of the configuration names it, or "" for one that is only stored
    folder     where its files are
    executors  that may hold it; empty = all
    """

    name: str
    key: str
    folder: Path
    executors: Sequence[str]


@dataclass(frozen=True, slots=True)
class Engine:
    """One executor's engine. `base` is None where nothing is known of its model yet; `wanted` is None where LoRA is off."""

    name: str
    base: Base | None
    wanted: Wanted | None


def check_adapters(tree: ConsiliumConfig, folder: StateFolder, say: Say) -> None:
    """Raise ConsiliumError(config_invalid) if a role needs an adapter that can answer nowhere. Warn of every other one."""
    candidates = _candidates(tree, folder)
    if not candidates:
        return
    engines = _engines(tree, folder)
    for candidate in candidates:
        why = why_nowhere(candidate, engines)
        if not why:
            continue
        for name, role in tree.roles.items():
            needed = {part.partition(":")[0].partition("@")[0] for part in role.adapters}
            if candidate.name in needed and not role.adapters_optional:
                raise ConsiliumError(
                    "config_invalid",
                    key=f"roles.{name}.adapters",
                    reason=f"{candidate.name!r} can answer nowhere: {why}",
                )
        say(f"warning: {candidate.key or 'the stored adapter'} {candidate.name!r}: {why}")


def why_nowhere(candidate: Candidate, engines: Sequence[Engine]) -> str:
    """Return why no engine can answer with an adapter, or "" where one can, or where nobody can tell yet."""
    from consilium.lora_router import adapter_files, fit

    try:
        described = adapter_files.read(candidate.folder).described()
    except ConsiliumError as err:
        return str(err.fields.get("reason", err.public()))
    refused = {}
    for engine in engines:
        if candidate.executors and engine.name not in candidate.executors:
            continue
        if engine.wanted is None:
            refused[engine.name] = "engine.lora is not set there"
            continue
        if engine.base is None:
            return ""
        found = fit.check(described, engine.base, engine.wanted)
        if found.is_good:
            return ""
        refused[engine.name] = str(found.refusals[0])
    if not refused:
        return f"no executor of our own is named {', '.join(candidate.executors)}"
    alone = len(refused) == 1 and CORE in refused
    return refused[CORE] if alone else "; ".join(f"{name}: {why}" for name, why in refused.items())


def _candidates(tree: ConsiliumConfig, folder: StateFolder) -> list[Candidate]:
    """Return the adapters whose files are here: configured folders, and what the store holds. Those of the hub that were never fetched are not judged."""
    from consilium.lora_router import sources
    from consilium.lora_router.backends.registry import peek

    root = folder.root / "lora_router"
    stored = {name: row for name, row in peek(root / "registry.db").items() if row.current}
    found = []
    for name, adapter in tree.adapters.items():
        path = Path(adapter.path)
        row = stored.pop(name, None)
        if row is not None and not path.is_dir():
            path = row.folder(root / "store")
        elif sources.is_hub(adapter.path):
            continue
        found.append(Candidate(name, "adapters", path, adapter.executors))
    for name, row in stored.items():
        if not row.from_config:  # what the configuration has dropped goes
            found.append(Candidate(name, "", row.folder(root / "store"), row.executors))
    return found


def _engines(tree: ConsiliumConfig, folder: StateFolder) -> list[Engine]:
    models = {CORE: tree.model} | {
        name: executor.model
        for name, executor in tree.executors.items()
        if isinstance(executor, EngineExecutor)
    }
    return [
        Engine(name, _base(model, folder), _wanted(tree, name)) for name, model in models.items()
    ]


def _wanted(tree: ConsiliumConfig, executor: str) -> Wanted | None:
    from consilium.lora_router.fit import Wanted

    settings = tree.lora(executor)
    return None if settings is None else Wanted(settings.max_rank, settings.modules)


def _base(model: str, folder: StateFolder) -> Base | None:
    """Return the modules of a model that is here or in the planner's table, or None."""
    from consilium.lora_router import base_modules

    config = _config(model, folder)
    if config is None:
        return None
    try:
        return base_modules.of(config, model)
    except ConsiliumError:
        return None


def _config(model: str, folder: StateFolder) -> Mapping[str, Any] | None:
    for path in (Path(model).expanduser(), folder.models / model):
        try:
            found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else None
    return known_config(model.partition("@")[0])
