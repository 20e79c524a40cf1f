"""Do the adapters fit the models that are about to start? Those of the configuration and those that are stored, looked at before any engine starts.

An adapter that fits nothing is told; one that a role cannot do without refuses the start. Reads headers and config.json, no tensor. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from consilium.cli.adapter_bases import base_of
from consilium.cli.config_tree import ConsiliumConfig
from consilium.demo import voice_files
from consilium.engine.config import EngineExecutor
from consilium.engine.ports import CORE
from consilium.gateway.config import Role
from consilium.kernel.config_refusal import no_such
from consilium.kernel.errors import ConsiliumError
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
    core       files of the adapter that is always added to it, None where there is none, or where they are not here yet
    """

    name: str
    key: str
    folder: Path
    executors: Sequence[str]
    core: Path | None = None


@dataclass(frozen=True, slots=True)
class Engine:
    """One executor's engine. `base` is None where nothing is known of its model yet; `wanted` is None where LoRA is off."""

    name: str
    base: Base | None
    wanted: Wanted | None


def check_adapters(tree: ConsiliumConfig, folder: StateFolder, say: Say) -> None:
    """Raise ConsiliumError(config_invalid) if a role needs an adapter that can answer nowhere. Warn of every other one, and of names in roles that no adapter has."""
    _tell_unknown(tree, folder, say)
    _tell_gone(tree, folder, say)
    candidates = _candidates(tree, folder)
    if not candidates:
        return
    engines = _engines(tree, folder)
    for candidate in candidates:
        for name, role in tree.roles.items():
            if candidate.name not in _names_in(role) or role.adapters_optional:
                continue
            if why := why_nowhere(candidate, engines, of_role(tree, role)):
                where = f"on {role.executor}" if role.executor else "nowhere"
                can = "cannot answer" if role.executor else "can answer"
                raise ConsiliumError(
                    "config_invalid",
                    key=f"roles.{name}.adapters",
                    reason=f"{candidate.name!r} {can} {where}: {why}",
                )
        why = why_nowhere(candidate, engines)
        if not why:
            continue
        say(f"warning: {candidate.key or 'the stored adapter'} {candidate.name!r}: {why}")


def tell_leaving(tree: ConsiliumConfig, leaving: Collection[str], say: Say) -> None:
    """Warn of adapters that roles name and that go, because the configuration has dropped them."""
    for name, role in tree.roles.items():
        can = "answers without it" if role.adapters_optional else "cannot answer"
        for adapter in _names_in(role):
            if adapter in leaving:
                say(
                    f"warning: roles.{name}.adapters: {adapter!r} stands in 'adapters' no more, so it is removed, and the role {can}. Put adapters.{adapter} back, or take it from the role"
                )


def check_running(held: ConsiliumConfig, wanted: ConsiliumConfig, say: Say) -> None:
    """Warn where engines that run have fewer slots than a changed configuration would give them.

    held  the configuration that was taken over last
    """
    for name in (CORE, *held.executors):
        before = held.lora(name)
        after = wanted.lora(name) if name == CORE or name in wanted.executors else None
        if after is None:
            continue
        if before is None:
            say(
                f"warning: {name} runs without slots for adapters, so none answers there before 'consilium down' and 'consilium up'"
            )
        elif before.slots < after.slots:
            say(
                f"warning: {name} runs with {before.slots} slots, and {after.slots} are wanted now: that many there are after 'consilium down' and 'consilium up'"
            )


def of_role(tree: ConsiliumConfig, role: Role) -> frozenset[str]:
    """Return the executors that may answer in a role: the one that it names, with what answers in its place; empty = any that can."""
    if not role.executor:
        return frozenset()
    named = tree.executors.get(role.executor)
    stands_in = role.fallback or (named.fallback if named else None)
    return frozenset(filter(None, (role.executor, stands_in)))


def why_nowhere(
    candidate: Candidate, engines: Sequence[Engine], among: frozenset[str] = frozenset()
) -> str:
    """Return why no engine can answer with an adapter, or "" where one can, or where nobody can tell yet.

    among  names of the executors that may answer; empty = all
    """
    engines = [engine for engine in engines if not among or engine.name in among]
    if not engines:
        return f"{', '.join(sorted(among))} is elsewhere, and adapters live in engines of our own"
    from consilium.lora_router import adapter_files, fit

    try:
        described = adapter_files.read(candidate.folder).described()
        core = None if candidate.core is None else adapter_files.read(candidate.core).described()
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
        refusals = fit.check(described, engine.base, engine.wanted).refusals
        if core is not None:
            refusals += fit.check(core, engine.base, engine.wanted).refusals
            refusals += tuple(fit.sum_refusals((described, core), engine.wanted))
        if not refusals:
            return ""
        refused[engine.name] = str(refusals[0])
    if not refused:
        return f"no executor of our own is named {', '.join(candidate.executors)}"
    alone = len(refused) == 1 and CORE in refused
    return refused[CORE] if alone else "; ".join(f"{name}: {why}" for name, why in refused.items())


def _names_in(role: Role) -> list[str]:
    return [part.partition(":")[0].partition("@")[0] for part in role.adapters]


def _tell_unknown(tree: ConsiliumConfig, folder: StateFolder, say: Say) -> None:
    """Warn of adapters that a role names and that are not there, or go: nobody has added them yet (the command line may do so later), or the configuration has dropped them."""
    if not any(role.adapters for role in tree.roles.values()):
        return
    from consilium.lora_router.backends.registry import peek

    stored = peek(folder.root / "lora_router" / "registry.db")
    leaving = {name for name, row in stored.items() if row.from_config} - {*tree.adapters}
    known = {*tree.adapters, *stored} - leaving
    tell_leaving(tree, leaving, say)
    for name, role in tree.roles.items():
        for adapter in _names_in(role):
            if adapter not in known and adapter not in leaving:
                sentence, _ = no_such(adapter, "adapter", known)
                say(
                    f"warning: roles.{name}.adapters: {sentence}. 'consilium adapters add PATH --name {adapter}' adds it while the cluster runs"
                )


def _tell_gone(tree: ConsiliumConfig, folder: StateFolder, say: Say) -> None:
    """Warn of folders that the configuration names and that are not there, while something of them is stored: that answers."""
    from consilium.lora_router import sources
    from consilium.lora_router.backends.registry import peek

    stored = peek(folder.root / "lora_router" / "registry.db")
    for name, adapter in tree.adapters.items():
        is_folder = adapter.path not in voice_files.PATHS and not sources.is_hub(adapter.path)
        if is_folder and name in stored and stored[name].current and not Path(adapter.path).is_dir():  # fmt: skip
            say(
                f"warning: adapters.{name}.path: there is no folder {adapter.path}; the version that is stored answers until there is one"
            )


def _candidates(tree: ConsiliumConfig, folder: StateFolder) -> list[Candidate]:
    """Return the adapters whose files are here: configured folders, and what the store holds. Those of the hub that were never fetched are not judged."""
    from consilium.lora_router import sources
    from consilium.lora_router.backends.registry import peek

    root = folder.root / "lora_router"
    stored = {name: row for name, row in peek(root / "registry.db").items() if row.current}
    found = []
    for name, adapter in tree.adapters.items():
        path = _path(adapter.path, root)
        row = stored.pop(name, None)
        if row is not None and not path.is_dir():
            path = row.folder(root / "store")
        elif sources.is_hub(adapter.path):
            continue
        core = _path(tree.adapters[adapter.with_core].path, root) if adapter.with_core else None
        core_here = core if core is not None and core.is_dir() else None
        found.append(Candidate(name, "adapters", path, adapter.executors, core_here))
    for name, row in stored.items():
        if not row.from_config:  # what the configuration has dropped goes
            found.append(Candidate(name, "", row.folder(root / "store"), row.executors))
    return found


def _path(path: str, root: Path) -> Path:
    """Return where an adapter's files are. A voice of the demo model is copied to where the room reads it."""
    from consilium.lora_router import sources

    is_voice = path in voice_files.PATHS
    return sources.fetched(path, root / "downloads") if is_voice else Path(path)


def _engines(tree: ConsiliumConfig, folder: StateFolder) -> list[Engine]:
    models = {CORE: tree.model} | {
        name: executor.model
        for name, executor in tree.executors.items()
        if isinstance(executor, EngineExecutor)
    }
    return [
        Engine(name, base_of(model, folder), _wanted(tree, name)) for name, model in models.items()
    ]


def _wanted(tree: ConsiliumConfig, executor: str) -> Wanted | None:
    from consilium.lora_router.fit import Wanted

    settings = tree.lora(executor)
    if settings is None:
        return None
    row = tree.executors.get(executor)
    engine = row.engine.over(tree.engine) if isinstance(row, EngineExecutor) else tree.engine
    mixed = bool(engine.extra_args.get("enable_mixed_moe_lora_format"))
    return Wanted(settings.max_rank, settings.modules, mixed)
