"""The room put together: store, registry, library, desk, and what of the configuration comes into it.

Knows which part needs which. Does not know sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.config import load_view
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.live_config import Live, Reading, versions
from consilium.kernel.tables import Table
from consilium.lora_router import (
    adapter_files,
    audit,
    base_modules,
    composition,
    configured,
    fit,
    sources,
)
from consilium.lora_router.backends.registry import SqliteRegistry
from consilium.lora_router.config import View
from consilium.lora_router.desk import Desk, Maker
from consilium.lora_router.fitting import Engine
from consilium.lora_router.grpc_over_http import as_json
from consilium.lora_router.http_arrivals import Arrivals
from consilium.lora_router.http_fields import merged, registered
from consilium.lora_router.incoming import GIB, Incoming, Limits
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Described, Refusal, StoredVersion
from consilium.lora_router.refusal import from_error
from consilium.lora_router.routes import Offered
from consilium.lora_router.servicer import LoraRouter
from consilium.lora_router.store import Store

AGAIN_S: Final = 60.0
"""Adapters of the configuration that could not be taken in are looked at again after so long: a hub may have been away."""

_UNREADABLE: Final = "Mend config.json in the model's folder, then start that engine again"

_log = logs.get("lora_router")


class Room:
    """What the process has opened."""

    def __init__(
        self, library: Library, desk: Desk, table: Table, arrivals: Arrivals, root: Path
    ) -> None:
        self.library, self.desk, self.table, self.arrivals = library, desk, table, arrivals
        self.servicer = LoraRouter(desk)
        self._root = root
        self._wanted: asyncio.Queue[View] = asyncio.Queue()

    @classmethod
    async def open(cls, view: View, root: Path, clock: Clock) -> Room:
        """Open store and registry in a folder. Raises ConsiliumError: conflict (another process has it), state_newer, state_damaged, disk_full."""
        await asyncio.to_thread(root.mkdir, mode=0o700, parents=True, exist_ok=True)
        settings = view.lora_router
        store = Store(root / "store")
        limits = Limits(
            int(settings.store_gib * GIB),
            int(settings.max_adapter_gib * GIB),
            settings.keep_versions,
            int((settings.adhoc_sums_gib or settings.store_gib / 10) * GIB),
            settings.adhoc_sums,
        )
        registry = await SqliteRegistry.open(root / "registry.db", store.folder)
        library = await Library(
            store,
            registry,
            limits,
            adapter_files.describe,
            clock=clock,
            content_sha=adapter_files.content_sha,
        ).open()
        table = Table("adapters")
        desk = Desk(
            library,
            table,
            settings,
            Maker(_fit, _sum_fit, _outline, _compose),
            clock,
            root / "scratch",
        )
        library.is_busy = lambda reference: any(
            place.in_use for place in desk.fleet.places(reference)
        )
        desk.sums.roles = view.adapters_of_roles
        library.standing = desk.sums.lasting
        library.dropped = desk.changed
        arrivals = Arrivals(root / "uploads", limits.adapter_bytes, clock=clock)
        desk.changed()
        return cls(library, desk, table, arrivals, root)

    async def take(self, offered: Offered) -> Mapping[str, object]:
        """Take in an adapter whose files have come, and return it as GetAdapter does, with the hash that was stored. Raises ConsiliumError."""
        said = offered.said
        before = next((row for row in self.library.names() if row.name == said.name), None)
        settings = merged(said, before)
        if settings is not None and (before is None or before.placement is not settings.placement):
            self.desk.check_place(said.name, settings.placement)
        named = settings or before
        executors, core = (named.executors, named.with_core) if named else ((), "")

        def demand(described: Described) -> None:
            self.desk.demand_fit(described, executors, core)

        incoming = Incoming(
            said.name,
            offered.folder or Path(),
            settings,
            make_current=None if before is None else False,
            is_ours=True,
            demand=None if said.force else demand,
        )
        try:
            if offered.known:
                version = await self.library.add_known(incoming, offered.known)
            else:
                version = await self.library.add(incoming)
            await self.desk.stored(version, force=said.force)
            return {**self.told(said.name), "stored": version.sha}
        except ConsiliumError as error:
            if error.code != "adapter_unknown" or error.fields.get("name") != said.name:
                raise
            reason = f"{said.name!r} was removed by somebody else while it came in. Add it again"
            raise ConsiliumError("conflict", reason=reason) from error

    def told(self, name: str) -> dict[str, Any]:
        """Return one adapter as JSON."""
        return as_json(self.servicer.adapter(name))

    def follow(self, config: Path, clock: Clock) -> Live[View]:
        """Return what follows the configuration's adapters."""

        def read(path: Path) -> Reading[View]:
            return Reading(load_view(View, path))

        return Live(config, read, take=self._wanted.put_nowait, clock=clock)

    async def configure(self) -> None:
        """Bring the library to what the configuration says, whenever it says something new, until cancelled."""
        while True:
            view = await self._wanted.get()
            while not await self._configured(view):
                try:
                    async with asyncio.timeout(AGAIN_S):
                        view = await self._wanted.get()
                except TimeoutError:
                    continue

    async def _configured(self, view: View) -> bool:
        """Return whether everything could be taken in."""
        self.desk.settings, downloads = view.lora_router, self._root / "downloads"
        self.desk.sums.roles = view.adapters_of_roles
        entries = {
            name: configured.entry(registered(name, adapter, from_config=True), adapter.path)
            for name, adapter in view.adapters.items()
        }
        try:
            outcome = await configured.take_in(
                self.library,
                entries,
                lambda path: sources.fetched(path, downloads, sources.Logged(path)),
                lambda path: sources.forget(path, downloads),
            )
            self.desk.changed()
            refused = dict(outcome.refused)
            refused |= await self._each(outcome.switch, self._stored)
            refused |= await self._each(((name,) for name in outcome.remove), self._removed)
            self._tell_refused(refused)
            self.desk.configuration = versions(view)["adapters"]
            await self.desk.sums.prepare()
        except ConsiliumError as error:
            _log.error("adapters_not_configured", reason=error.public())
            return False
        _log.info("adapters_configured", adapters=len(entries), refused=len(refused))
        return not refused

    async def _each(
        self, rows: Iterable[tuple[str, ...]], do: Callable[..., Awaitable[None]]
    ) -> dict[str, ConsiliumError]:
        """Do something for each name, and return name -> why it could not be done: one that is refused keeps no other one waiting."""
        refused = {}
        for row in rows:
            try:
                await do(*row)
            except ConsiliumError as error:
                refused[row[0]] = error
        return refused

    async def _stored(self, name: str, sha: str) -> None:
        await self.desk.stored(self.library.find(f"{name}:{sha}"))

    async def _removed(self, name: str) -> None:
        try:
            gone = ",".join(await self.desk.remove(name, from_config=True))
        except ConsiliumError as error:
            reason = (
                f"it stands in the configuration no more and could not be removed: {error.public()}"
            )
            raise ConsiliumError("conflict", error.detail, reason=reason) from error
        audit.note("adapter_removed", by=audit.CONFIGURATION, adapter=name, references=gone)

    def _tell_refused(self, refused: Mapping[str, ConsiliumError]) -> None:
        """Say which adapters of the configuration could not be taken in, once for each reason, and what answers in their place."""
        before = self.desk.not_taken_in
        self.desk.not_taken_in = {name: why.public() for name, why in refused.items()}
        for name, reason in self.desk.not_taken_in.items():
            if before.get(name) != reason:
                row = self.library.holdings.names.get(name)
                answers = row.registered.current[:16] if row else ""
                _log.error(
                    "configured_adapter_refused", adapter=name, reason=reason, answers=answers
                )
        for name in before.keys() - refused.keys():
            _log.info("configured_adapter_taken", adapter=name)

    async def drain(self, _grace_s: float) -> None:
        """Let go of the replicas: their polls would hold the end up until the grace is over."""
        self.desk.fleet.close()

    async def aclose(self) -> None:
        """Write down what is not yet, and let go."""
        await self.desk.aclose()
        await self.library.aclose()


def _sum_fit(parts: Sequence[Described], engine: Engine) -> Sequence[Refusal]:
    return tuple(fit.sum_refusals(parts, fit.Wanted(engine.max_rank or None)))


def _outline(version: StoredVersion) -> Described:
    return adapter_files.read(version.path).described(version.sha)


def _fit(described: Described, engine: Engine) -> Sequence[Refusal]:
    """Return why an adapter does not fit an engine; one that has not told its model is asked for the rank only."""
    wanted = fit.Wanted(engine.max_rank or None, engine.target_modules, engine.mixed_experts)
    if not engine.config:
        return tuple(fit.rank_refusals(described, wanted))
    try:
        return fit.check(described, _modules_of(engine.config), wanted).refusals
    except ConsiliumError as error:
        return (from_error(error),)
    except ValueError as error:
        return (Refusal("base_unreadable", "config.json", str(error), _UNREADABLE),)


@lru_cache(maxsize=8)
def _modules_of(base: str) -> base_modules.Base:
    return base_modules.of(json.loads(base), "the engine's model")


def _compose(parts: Sequence[tuple[Path, float]], folder: Path, max_rank: int) -> None:
    terms = [composition.Term(path, weight) for path, weight in parts]
    if max_rank:
        composition.compose(terms, folder, max_rank=max_rank)
    else:  # no engine has said yet what it holds
        composition.compose(terms, folder)
