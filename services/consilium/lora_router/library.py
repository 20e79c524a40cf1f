"""The adapters of a cluster: what is registered and what lies in the store, always the same.

    library = await Library(store, registry, limits, describe, clock=clock).open()
    version = await library.add("sport", folder)
    held = library.find("sport")                       in memory, at once

Files come first, the registry second, memory third; in the other direction the registry comes first. So a crash leaves files that nobody names, never names without
files, and the next start deletes them. Reading never waits. Does not know formats, engines or the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import sum_room
from consilium.lora_router.holdings import Holdings, reference_of
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.incoming import (
    Incoming,
    Limits,
    check_may_be_set,
    check_name,
    held_from,
    named_from,
)
from consilium.lora_router.ports import (
    Changes,
    Described,
    Held,
    Named,
    Placement,
    Registered,
    Registry,
    StoredVersion,
    Uses,
)
from consilium.lora_router.shelves import Shelves
from consilium.lora_router.store import Store
from consilium.lora_router.sum_room import Need

T = TypeVar("T")

_log = logs.get("lora_router")


def _nobody(_reference: str) -> bool:
    return False


class Library(Shelves):
    """Everything that is stored, by name. One per cluster.

    describe     folder -> what its files say; reads both files, raises ConsiliumError(adapter_refused); called in threads
    content_sha  folder -> the hash alone, where that is quicker than describing
    is_busy      whether an engine uses a version now: set by whoever knows, so that nothing in use is deleted to make room
    standing     the parts of each sum that is no request's alone: set by whoever knows; those never make room for one that is
    changed      called after each change, with nothing: set by whoever tells others
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        limits: Limits,
        describe: Callable[[Path], Described],
        *,
        clock: Clock,
        content_sha: Callable[[Path], str] | None = None,
    ) -> None:
        self._store, self._registry, self._limits = store, registry, limits
        self._describe, self._clock = describe, clock
        self._content_sha = content_sha or (lambda folder: self._describe(folder).sha)
        super().__init__()
        self._writing = asyncio.Lock()
        self._incoming_bytes = 0
        self._running: set[asyncio.Task[Any]] = set()
        self.is_busy: Callable[[str], bool] = _nobody
        self.standing: Callable[[], Collection[object]] = tuple
        self.changed: Callable[[], None] = lambda: None
        self.dropped = self.changed  # called when sums were deleted to make room

    async def open(self) -> Self:
        """Bring store and registry together, and return the library.

        Files that the registry does not name are deleted. A version whose files are gone or damaged stays, and answers nobody until it is added again.
        """
        names, versions = await self._registry.load()
        self._holdings = Holdings().after(Changes(tuple(names), tuple(versions)))
        swept = await asyncio.to_thread(self._store.sweep, self._holdings.files())
        if swept.orphans:
            _log.warning("store_swept", bytes=swept.orphans)
        await self._note_damaged(swept.damaged)
        return self

    async def aclose(self) -> None:
        """Finish what has begun, and let go of the registry."""
        while self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
        await self._registry.aclose()

    @property
    def quota_bytes(self) -> int:
        """Return the bytes that the store may take."""
        return self._limits.store_bytes

    # What changes. Once it has begun it goes on to its end, also when whoever asked has left.

    async def add(self, incoming: Incoming) -> StoredVersion:
        """Store an adapter, and return its version; the same content under the same name is stored once.

        Raises ConsiliumError: invalid_request (name, core), conflict (the configuration holds the name), adapter_refused, adapter_store_full, disk_full.
        """
        check_name(incoming.name)
        self._check_said(incoming)
        return await self._to_its_end(self._add(incoming))

    async def add_known(self, incoming: Incoming, sha: str) -> StoredVersion:
        """Take a version that the name has as if its files had come again, once those that are there were hashed. `incoming.source` is not looked at.

        Raises ConsiliumError: adapter_unknown (the name has no such version) or data_damaged (its files are not what was stored): then they must be sent; and as `add` does.
        """
        check_name(incoming.name)
        return await self._to_its_end(self._add_known(incoming, sha))

    async def add_sum(
        self,
        address: str,
        parts: Sequence[tuple[str, float]],
        folder: Path,
        described: Described | None = None,
    ) -> StoredVersion:
        """Store a sum, and return its version under the name mix; one that is there already is returned.

        address  identity.sum_sha of its parts
        parts    reference and weight of each
        folder   its two files, on the store's disk; they are moved

        Its files are hashed like all others: so its version carries the hash of its content, and `find_sum` finds it by the address.
        """
        there = self.find_sum(address)
        if there is not None:
            return there
        incoming = Incoming(MIX, folder, described=described, is_ours=True)
        return await self._to_its_end(self._add(incoming, address, tuple(parts)))

    async def place(self, name: str, placement: Placement) -> Registered:
        """Change where an adapter is kept."""
        return await self._rename_row(name, lambda said: replace(said, placement=placement))

    async def configure(self, settings: Registered, *, origin: str, entry: str) -> Registered:
        """Take over what the configuration says of a name that is there; the version that answers stays."""

        def anew(row: Named) -> Named:
            said = replace(settings, current=row.registered.current)
            return replace(row, registered=said, origin=origin, entry=entry)

        return await self._change_name(settings.name, anew)

    async def switch(self, name: str, sha: str, *, ends_waiting: bool = True) -> Registered:
        """Let another stored version answer. What waits to take over does so no more, or only if it is this one. Raises ConsiliumError: adapter_unknown, conflict (several begin so)."""
        found = self._holdings.find(f"{name}:{sha}").version.sha

        def anew(row: Named) -> Named:
            waiting = "" if ends_waiting or row.waiting == found else row.waiting
            registered = replace(row.registered, current=found)
            return replace(row, registered=registered, waiting=waiting)

        registered = await self._change_name(name, anew)
        await self._to_its_end(self._drop_surplus(name))
        return registered

    async def wait(self, name: str, sha: str) -> None:
        """Keep which stored version is to take over as soon as it may; a switch ends that."""
        if self._holdings.named(name).waiting != sha:
            await self._change_name(name, lambda row: replace(row, waiting=sha))

    async def judge(
        self, text: str, anew: Callable[[StoredVersion], StoredVersion]
    ) -> StoredVersion:
        """Keep what a canary found; `anew` gets the version as it is then, so that of two verdicts at once none is lost. Raises as `find` does."""

        async def write() -> StoredVersion:
            async with self._writing:
                held = self._holdings.find(text)
                version = anew(held.version)
                await self._save(Changes(versions=(replace(held, version=version),)))
                return version

        return await self._to_its_end(write())

    async def count(self, uses: Mapping[str, Uses]) -> None:
        """Add up what happened with versions, by reference. Those that are gone meanwhile are passed over."""

        async def write() -> None:
            async with self._writing:
                held = [
                    replace(h, uses=h.uses + uses[reference_of(h)])
                    for name in {text.partition(":")[0] for text in uses}
                    for h in self._holdings.of(name).values()
                    if reference_of(h) in uses
                ]
                if held:
                    await self._save(Changes(versions=tuple(held)), quietly=True)

        await self._to_its_end(write())

    async def verify(self, text: str) -> StoredVersion:
        """Return a version after its files were hashed again. Raises ConsiliumError(data_damaged) if they are not what was stored, and what `find` raises."""
        version = self.find(text)
        if not await asyncio.to_thread(self._is_sound, version.sha):
            raise _damaged(reference(version.name, version.sha), version.path)
        return version

    async def hide(self, text: str) -> tuple[str, ...]:
        """Stop finding what `remove` of the same text would delete, and return the references; it comes back with `unhide`, and after a restart.

        From then on nothing is added to it, so that nothing is deleted of which no engine was asked. Raises ConsiliumError: adapter_unknown, conflict.
        """
        async with self._writing:
            going = tuple(reference_of(held) for held in self._removable(text, from_config=True))
            named = (*going, text) if ":" not in text else going
            self._hold(replace(self._holdings, hidden=self._holdings.hidden | set(named)))
            return going

    def unhide(self, references: Sequence[str]) -> None:
        """Find them again."""
        names = {text.partition(":")[0] for text in references}
        hidden = self._holdings.hidden - set(references) - names
        self._hold(replace(self._holdings, hidden=hidden))

    async def remove(self, text: str, *, from_config: bool = False) -> tuple[str, ...]:
        """Delete NAME with all its versions, or the one of NAME:VERSION, and the sums with them; return the references that are gone.

        from_config  whether the configuration asks; only it may delete what it holds

        Whoever calls has seen that no engine uses them. Raises ConsiliumError: adapter_unknown, conflict.
        """
        self._removable(text, from_config=from_config)
        return await self._to_its_end(self._remove(text, from_config=from_config))

    # How it is done.

    async def _add(
        self, incoming: Incoming, address: str = "", parts: tuple[tuple[str, float], ...] = ()
    ) -> StoredVersion:
        sizes = await asyncio.to_thread(self._store.sizes, incoming.source)
        needed = sum(sizes.values())
        is_adhoc = incoming.name == MIX and parts not in self.standing()
        await self._make_room(needed, is_adhoc=is_adhoc)
        self._incoming_bytes += needed
        try:
            aside = await asyncio.to_thread(self._bring_in, incoming)
            try:
                described = await asyncio.to_thread(self._seen, aside, incoming)
                async with self._writing:
                    return await self._keep(incoming, aside, described, address, parts)
            finally:
                await asyncio.to_thread(self._store.discard, aside)
        finally:
            self._incoming_bytes -= needed

    def _check_said(self, incoming: Incoming) -> None:
        """Raise ConsiliumError: conflict (the configuration holds the name), invalid_request (its core cannot be one). An entry of the configuration was held against its other entries."""
        check_may_be_set(incoming, self._holdings.names.get(incoming.name))
        said = incoming.settings
        if said is not None and not said.from_config:
            self._holdings.check_core(said)

    async def _add_known(self, incoming: Incoming, sha: str) -> StoredVersion:
        name = incoming.name
        told = reference(name, sha)
        if sha not in self._holdings.of(name):
            raise ConsiliumError("adapter_unknown", name=told)
        folder = self._store.folder(sha)
        try:
            described = await asyncio.to_thread(self._describe, folder)
        except (OSError, ConsiliumError) as error:
            raise _damaged(told, folder) from error
        if described.sha != sha or sha in self._holdings.damaged:
            raise _damaged(told, folder)
        if incoming.demand is not None:
            incoming.demand(described)
        async with self._writing:
            row = self._holdings.named(name)
            self._check_said(incoming)
            self._holdings.check_stays(name, sha)
            held = self._holdings.of(name).get(sha)
            if held is None:  # it was removed while it was hashed
                raise ConsiliumError("adapter_unknown", name=told)
            await self._save(Changes(names=(named_from(incoming, row, sha),)))
            return held.version

    def _bring_in(self, incoming: Incoming) -> Path:
        if incoming.is_ours:
            return self._store.move_in(incoming.source)
        return self._store.copy_in(incoming.source, self._limits.adapter_bytes)

    def _seen(self, aside: Path, incoming: Incoming) -> Described:
        described = self._describe(aside)
        if incoming.described is not None and incoming.described.sha != described.sha:
            raise ConsiliumError(
                "adapter_refused",
                reason=f"{incoming.source}: its files changed while they were read. Add it again once nothing writes them (changed_meanwhile)",
                check="changed_meanwhile",
            )
        if incoming.demand is not None:
            incoming.demand(described)
        return described

    async def _keep(
        self,
        incoming: Incoming,
        aside: Path,
        described: Described,
        address: str,
        parts: tuple[tuple[str, float], ...],
    ) -> StoredVersion:
        self._check_said(incoming)
        name, sha = incoming.name, described.sha
        self._holdings.check_stays(name, sha, parts)
        held = self._holdings.of(name).get(sha)
        if held is None:
            held = held_from(
                incoming,
                described,
                number=self._holdings.number_for(name, sha),
                path=self._store.folder(sha),
                file_bytes=await asyncio.to_thread(self._store.sizes, aside),
                now=self._clock.now(),
                parts=parts,
            )
        held = replace(held, address=held.address or address)
        held = await self._publish(aside, held)
        names = (named_from(incoming, self._holdings.names.get(name), sha),)
        try:
            await self._save(Changes(names=() if name == MIX else names, versions=(held,)))
        except BaseException:
            if not self._holdings.holders(sha):
                await asyncio.to_thread(self._store.remove, sha)
            raise
        if name != MIX:
            await self._delete(self._surplus(name, beside=sha))
        return held.version

    async def _publish(self, aside: Path, held: Held) -> Held:
        """Put the files in their place; where others with the same content are, those stay unless they are damaged."""
        sha = held.version.sha
        others = self._holdings.holders(sha)
        if not others:
            await asyncio.to_thread(self._store.publish, aside, sha)
            return held
        if sha not in self._holdings.damaged and await asyncio.to_thread(self._is_sound, sha):
            sizes = others[0].file_bytes
        else:
            sizes = await asyncio.to_thread(self._store.sizes, aside)
            await asyncio.to_thread(self._store.publish, aside, sha, anew=True)
            _log.warning("adapter_mended", adapter=reference_of(held))
            mended = tuple(_with_sizes(other, sizes) for other in others)
            await self._save(Changes(versions=mended), quietly=True)
            still = {other: why for other, why in self._holdings.damaged.items() if other != sha}
            self._hold(replace(self._holdings, damaged=still), quietly=True)
        return _with_sizes(held, sizes)

    def _is_sound(self, sha: str) -> bool:
        try:
            return self._content_sha(self._store.folder(sha)) == sha
        except (OSError, ConsiliumError):
            return False

    async def _make_room(self, needed: int, *, is_adhoc: bool) -> None:
        """Delete sums that nobody uses until so many bytes fit. Raises ConsiliumError: adapter_store_full, adapter_sums_full."""
        async with self._writing:
            need = Need(needed, self.stored_bytes + self._incoming_bytes, is_adhoc)
            going = sum_room.going(
                self._holdings, need, self._limits, self.is_busy, self.standing()
            )
            if await self._delete(going):
                self.dropped()

    def _removable(self, text: str, *, from_config: bool) -> tuple[Held, ...]:
        name = text.partition(":")[0]
        row = self._holdings.names.get(name)
        if row is not None and row.registered.from_config and ":" not in text and not from_config:
            raise ConsiliumError(
                "conflict",
                reason=f"{name!r} stands in the configuration: take adapters.{name} out of it and run 'consilium apply'.",
            )
        return replace(self._holdings, hidden=frozenset()).meant(text)

    async def _remove(self, text: str, *, from_config: bool) -> tuple[str, ...]:
        async with self._writing:
            going = self._removable(text, from_config=from_config)
            return await self._delete(going, () if ":" in text else (text,))

    def _surplus(self, name: str, beside: str = "") -> tuple[Held, ...]:
        surplus = self._holdings.surplus(
            name, self._limits.keep_versions, self.is_busy, beside=beside
        )
        sums = self._holdings.sums_with(map(reference_of, surplus))
        return () if any(self.is_busy(reference_of(one)) for one in sums) else (*surplus, *sums)

    async def _drop_surplus(self, name: str) -> None:
        async with self._writing:
            await self._delete(self._surplus(name))

    async def _delete(self, going: Sequence[Held], names: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Take versions from the registry, then delete the files that nobody else has."""
        if not going and not names:
            return ()
        gone = tuple((held.version.name, held.version.sha) for held in going)
        await self._save(Changes(gone_names=names, gone_versions=gone))
        references = tuple(reference_of(held) for held in going)
        for sha in {sha for _, sha in gone}:
            if not self._holdings.holders(sha):
                await asyncio.to_thread(self._store.remove, sha)
        hidden = self._holdings.hidden - set(references) - set(names)
        damaged = {s: why for s, why in self.damaged.items() if self._holdings.holders(s)}
        self._hold(replace(self._holdings, hidden=hidden, damaged=damaged))
        _log.info("adapters_deleted", adapters=references)
        return references

    async def _note_damaged(self, damaged: Mapping[str, str]) -> None:
        """Keep in mind what answers nobody. Sums are made again when somebody asks; what the configuration holds is read again from where it came."""
        if not damaged:
            return
        self._hold(replace(self._holdings, damaged=damaged), quietly=True)
        for sha, why in damaged.items():
            for held in self._holdings.holders(sha):
                _log.error("adapter_damaged", adapter=reference_of(held), reason=why)
        again = tuple(
            replace(row, origin="")
            for name, row in self._holdings.names.items()
            if row.origin and self._holdings.of(name).keys() & damaged.keys()
        )
        async with self._writing:
            if again:
                await self._save(Changes(names=again), quietly=True)
            sums = self._holdings.of(MIX)
            await self._delete([sums[sha] for sha in damaged if sha in sums])

    async def _rename_row(
        self, name: str, change: Callable[[Registered], Registered]
    ) -> Registered:
        return await self._change_name(
            name, lambda row: replace(row, registered=change(row.registered))
        )

    async def _change_name(self, name: str, change: Callable[[Named], Named]) -> Registered:
        async def write() -> Registered:
            async with self._writing:
                row = change(self._holdings.named(name))
                await self._save(Changes(names=(row,)))
                return row.registered

        return await self._to_its_end(write())

    async def _save(self, changes: Changes, *, quietly: bool = False) -> None:
        await self._registry.save(changes)
        self._hold(self._holdings.after(changes), quietly=quietly)

    def _hold(self, holdings: Holdings, *, quietly: bool = False) -> None:
        self._holdings = holdings
        if not quietly:
            self.changed()

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on where whoever waits for it is cancelled."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


def _damaged(told: str, folder: Path) -> ConsiliumError:
    return ConsiliumError(
        "data_damaged",
        str(folder),
        reason=f"The files of {told} are not what was stored. Add the adapter again: that puts them right.",
    )


def _with_sizes(held: Held, sizes: Mapping[str, int]) -> Held:
    version = replace(held.version, size_bytes=sum(sizes.values()))
    return replace(held, version=version, file_bytes=dict(sizes))
