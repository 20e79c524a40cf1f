"""The room's own hand: what the library holds, what replicas say, and what follows from both.

    stored    -> a canary tries it -> it becomes the version that answers, once every replica that holds the old one has it too
    removed   -> nobody resolves it -> it leaves slots and memory, seen by the replicas' own reports -> its files are deleted
    a sum     -> made once, kept by its address

Every change is a change of the table that gateways follow. Knows library and fleet. Does not know the wire or formats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.tables import Table
from consilium.lora_router import pinning, rows, trials
from consilium.lora_router.config import LoraRouter
from consilium.lora_router.fitting import Engine, Fitting
from consilium.lora_router.fleet import Fleet, Place
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.library import Library
from consilium.lora_router.ports import (
    Described,
    Placement,
    Proof,
    Refusal,
    Registered,
    StoredVersion,
    Trial,
    Uses,
)
from consilium.lora_router.refusal import nowhere
from consilium.lora_router.reports import MoveKind, Report, Target, TriedNote, UseNote
from consilium.lora_router.sums import Stage, Sums
from consilium.lora_router.takeover import TakeOver
from consilium.lora_router.told import Told

REMOVE_S: Final = 30.0
SWITCH_S: Final = 120.0
MEMORY_S: Final = 15.0
AGAIN_S: Final = 60.0
"""A version that waits to take over, and could not, is looked at again so often."""
FLUSH_S: Final = 5.0
"""Uses are written to the disk so often: they are counted, not accounted."""

_log = logs.get("lora_router")


@dataclass(frozen=True, slots=True)
class Maker:
    """What formats are asked.

    fit      (what an adapter is, an engine) -> why it does not fit; empty = it fits
    sum_fit  (what the parts of a sum are, an engine) -> why their sum does not fit, where each part does
    outline  version -> what it is; reads its header, raises ConsiliumError
    compose  ((folder, weight) each, folder to write into, largest rank) -> None; blocks. Raises ConsiliumError(adapter_refused)
    """

    fit: Callable[[Described, Engine], Sequence[Refusal]]
    sum_fit: Callable[[Sequence[Described], Engine], Sequence[Refusal]]
    outline: Callable[[StoredVersion], Described]
    compose: Callable[[Sequence[tuple[Path, float]], Path, int], None]


class Desk:
    """One per cluster.

    scratch       folder on the store's disk for sums that are being made
    configuration  digest of the section `adapters` that was worked through last, set likewise
    not_taken_in  names of the configuration -> why their files could not be taken in: what is stored of them answers; set by whoever reads the configuration
    """

    def __init__(  # noqa: PLR0917  each is one thing that it stands on
        self,
        library: Library,
        table: Table,
        settings: LoraRouter,
        maker: Maker,
        clock: Clock,
        scratch: Path,
    ) -> None:
        self.library, self.settings = library, settings
        self._table, self._maker, self._clock = table, maker, clock
        self._fitting = Fitting(maker.fit, maker.outline, library.versions, self.changed)
        self.sums = Sums(
            library,
            Stage(
                maker.compose,
                scratch,
                lambda: self._fitting.largest_rank,
                self.changed,
                clock,
                self.answers,
            ),
        )
        self._told = Told(
            library,
            self._fitting,
            self.sums,
            lambda: self.settings,
            lambda: self.fleet.revisions(),  # noqa: PLW0108  there is no fleet yet
        )
        self.not_taken_in: Mapping[str, str] = {}
        self.configuration = ""
        self._uses: dict[str, Uses] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.fleet = Fleet(
            clock,
            targets=self.targets,
            on_tried=self._tried,
            on_uses=self._used,
            on_executor=self._heard,
            on_gone=self._gone,
            before=self._fitting.weighed,
        )
        self._takeover = TakeOver(library, self.fleet, self._told, clock, self._taken_over)

    # what others read

    def answers(self, version: StoredVersion) -> bool:
        """Say whether a version may answer: it was tried and is sound, or its owner wants no canary, or insists."""
        return self._told.answers(version)

    def shown(self) -> Iterator[tuple[Registered, tuple[StoredVersion, ...]]]:
        """Yield each name with its versions, but for sums and for what is being removed."""
        for row in self.library.names():
            if row.name == MIX:
                continue
            try:
                yield self.library.get(row.name)
            except ConsiliumError:
                continue

    def fits(self, version: StoredVersion) -> dict[str, str]:
        """Return executor -> why a version does not fit there; "" = it fits. Of one that is damaged nobody can tell."""
        return self._told.fits(version)

    def told_fits(self, version: StoredVersion) -> dict[str, str]:
        """Return executor -> why a version does not answer there: it does not fit, or the model of that executor has not shown that it is sound."""
        return self._told.told_fits(version)

    def demand_fit(self, described: Described, executors: Sequence[str], core: str = "") -> None:
        """Raise ConsiliumError(adapter_refused) if an adapter fits none of the engines that were heard; where none was, nobody can tell yet.

        executors  that may hold it; empty = all
        core       adapter that is always added to it: the sum of both must fit as well
        """
        beside = self._core_of(core)

        def refuses(engine: Engine) -> list[Refusal]:
            alone = self._maker.fit(described, engine)
            return [*alone, *(self._maker.sum_fit((described, beside), engine) if beside else ())]

        why = self._fitting.misfit(refuses, executors)
        if why:
            raise nowhere(why)

    def targets(self, executor: str) -> Mapping[str, Target]:
        """Return what replicas of an executor may be asked for, by reference. Only versions that answer are kept in slots and memory. Not to be kept: the next question changes it."""
        return self._told.targets(executor)

    def places(self, version: StoredVersion) -> tuple[Place, ...]:
        """Return where a version is now."""
        return self.fleet.places(reference(version.name, version.sha))

    # what changes

    def changed(self) -> None:
        """Tell gateways and replicas what the library holds now."""
        self._told.tell(self._table)
        self.fleet.changed()

    async def stored(self, version: StoredVersion, *, force: bool = False) -> None:
        """Take note of a version that was added: it answers once it was tried; at once where nobody tries, or its owner insists."""
        row, _ = self.library.get(version.name)
        name = reference(version.name, version.sha)
        self.fleet.forgive(name)  # its files may be whole again
        if force and not self.answers(version):
            version = await self._insisted(version)
        elif trials.is_doubted(version) and not rows.is_forced(version):
            # It was tried before, and whoever adds it again wants to know anew: a node may have been away, or an engine is another one now.
            version = await self.library.judge(name, trials.without_doubts)
        if row.current != version.sha:
            await self.library.wait(version.name, version.sha)
            self._later(self._takeover.of(version.name))
        elif self.answers(version):
            self._later(self.sums.prepare([version.name]))
        self.changed()

    async def place(self, name: str, placement: Placement) -> None:
        """Keep an adapter somewhere else. Raises ConsiliumError: adapter_unknown, adapter_refused (no slot would stay free)."""
        self.check_place(name, placement)
        await self.library.place(name, placement)
        self.changed()

    def check_place(self, name: str, placement: Placement) -> None:
        """Raise ConsiliumError(adapter_refused) if an adapter cannot be kept there, for then no slot would stay free."""
        if placement is Placement.VRAM:
            slots = {executor: len(each.slots) for executor, each in self.fleet.executors().items()}
            pinning.check(name, self.library.names(), slots)

    async def warm(self, text: str, kind: MoveKind) -> tuple[Place, ...]:
        """Have a version loaded now. Raises ConsiliumError."""
        version = self.library.find(text)
        return await self.fleet.bring(reference(version.name, version.sha), kind)

    async def evict(self, text: str) -> tuple[Place, ...]:
        """Take a version out of slots and memory. Raises ConsiliumError: adapter_unknown, conflict (its placement would bring it back)."""
        version = self.library.find(text)
        placement = self._told.placement(version)
        if placement is not Placement.SSD:
            reason = f"{version.name!r} is kept in {placement}, so it would come back at once: 'consilium adapters place {version.name} ssd' first"
            raise ConsiliumError("conflict", reason=reason)
        return await self.fleet.bring(reference(version.name, version.sha), MoveKind.EVICT)

    async def switch(self, name: str, beginning: str, *, force: bool = False) -> None:
        """Let another stored version answer: it is loaded wherever the old one is, then all gateways hear of it at once.

        Raises ConsiliumError: adapter_unknown; adapter_refused with the reason of the replica that cannot load it, or of the canary; then nothing has changed.
        """
        version = self.library.find(f"{name}:{beginning}")
        if force and not self.answers(version):
            version = await self._insisted(version)
        if not self.answers(version):
            reason = f"{name}:{version.sha[:8]} is {version.proof}, so it may not answer: 'consilium adapters show {name}' has the figures; --force lets it answer all the same"
            raise ConsiliumError("adapter_refused", reason=reason)
        await self._made_ready(version, force=force)
        await self._flip(version)

    async def _taken_over(self, version: StoredVersion, still: Callable[[], bool]) -> bool:
        """Switch to a version that has waited for it, unless something else came meanwhile; return whether."""
        await self._made_ready(version, force=False)
        if not still():
            return False
        await self._flip(version, ends_waiting=False)
        return True

    async def _made_ready(self, version: StoredVersion, *, force: bool) -> None:
        """Have a version and its sums wherever those of the one that answers now are."""
        row, _ = self.library.get(version.name)
        await self._load_beside(row, version, force=force)
        await self._sums_beside(version.name, version)

    async def _flip(self, version: StoredVersion, *, ends_waiting: bool = True) -> None:
        try:
            await self.library.switch(version.name, version.sha, ends_waiting=ends_waiting)
        finally:
            self.changed()
        self._later(self.sums.prepare([version.name]))

    async def remove(
        self, text: str, wait_s: float = REMOVE_S, *, from_config: bool = False
    ) -> tuple[str, ...]:
        """Remove a name with all its versions, or one version. Raises ConsiliumError: adapter_unknown, conflict where a role or an adapter needs it, or while calls use it (then it stays, and answers again)."""
        if not from_config:
            self._check_removable(text)
        going = await self.library.hide(text)
        self.changed()
        try:
            for name in going:
                await self.fleet.bring(name, MoveKind.EVICT, wait_s=wait_s)
        except BaseException as error:  # whoever asked may have left, too
            self._found_again(text, going)
            if not isinstance(error, ConsiliumError) or error.code != "deadline":
                raise
            used = sum(each.in_use for name in going for each in self.fleet.places(name))
            reason = f"{text!r} is still in the engines after {wait_s:g} s ({used} calls use it), so it stays. Ask again when they have ended"
            raise ConsiliumError("conflict", error.detail, reason=reason) from error
        try:
            gone = await self.library.remove(text, from_config=from_config)
        except ConsiliumError:
            self._found_again(text, going)
            raise
        self.changed()
        _log.info("adapter_removed", references=",".join(gone))
        return gone

    async def compose(self, parts: Sequence[tuple[str, float]]) -> str:
        """Return the reference of a sum of (reference, weight): see Sums.of."""
        return await self.sums.of(parts)

    def want(self, names: Iterable[str], until: float) -> None:
        """Take a hint: these are likely needed until then."""
        known = []
        for name in names:
            try:
                version = self.library.find(name)
            except ConsiliumError:
                continue
            known.append(reference(version.name, version.sha))
        self.fleet.hint(known, until)

    async def run(self) -> None:
        """Write down what was used, and let versions take over that wait for it, until cancelled."""
        looked = self._clock.monotonic()
        while True:
            await self._clock.sleep(FLUSH_S)
            await self.flush()
            self.fleet.forget_gone()
            if self._clock.monotonic() - looked >= AGAIN_S:
                looked = self._clock.monotonic()
                for row in self.library.waiting():
                    self._later(self._takeover.of(row.registered.name))

    async def flush(self) -> None:
        """Write down what was used."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self.library.count(uses)
        except ConsiliumError as error:  # a full disk: adapters answer all the same
            self._uses = {
                name: self._uses.get(name, Uses()) + uses.get(name, Uses())
                for name in {*uses, *self._uses}
            }
            _log.warning("uses_not_kept", reason=error.public())

    async def aclose(self) -> None:
        """Let go."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.flush()

    # how

    def _core_of(self, name: str) -> Described | None:
        """Return what a core is, or None where there is none yet, or its files cannot be read now."""
        if not name:
            return None
        try:
            return self._maker.outline(self.library.find(name))
        except ConsiliumError:
            return None

    def _is_open(self, version: StoredVersion) -> bool:
        return version.proof is Proof.UNPROVEN and not self.answers(version)

    def _found_again(self, text: str, references: Sequence[str]) -> None:
        self.library.unhide((*references, text))
        self.changed()

    def _check_removable(self, text: str) -> None:
        name, _, beginning = text.partition(":")
        row, _ = self.library.get(name)
        if row.from_config and not beginning:
            reason = f"{name!r} stands in the configuration: remove adapters.{name} there and run 'consilium apply'"
            raise ConsiliumError("conflict", reason=reason)
        for other in self.library.names():
            if other.with_core == name and not beginning:
                reason = f"{other.name!r} has {name!r} as its core: remove or change that one first"
                raise ConsiliumError("conflict", reason=reason)
        sha = self.library.find(text).sha if beginning else ""
        if roles := self.sums.roles_with(name, sha):
            keys = " and ".join(f"roles.{role}.adapters" for role in roles)
            reason = f"{text!r} answers in {', '.join(roles)}, so it stays: take it from {keys} and run 'consilium apply' first"
            raise ConsiliumError("conflict", reason=reason)

    async def _insisted(self, version: StoredVersion) -> StoredVersion:
        """Write down that the owner wants a version to answer, whatever a canary says."""
        return await self.library.judge(
            reference(version.name, version.sha),
            lambda now: replace(now, proof_json=rows.forced(now)),
        )

    async def _load_beside(self, row: Registered, version: StoredVersion, *, force: bool) -> None:
        """Load a version on every replica that holds the one that answers now. Raises ConsiliumError(adapter_refused) where the old one fits and the new one does not, unless its owner insists."""
        if not row.current or row.current == version.sha:
            return
        lost = self._takeover.lost(version)
        if lost and not force:
            told = "; ".join(f"{executor}: {why}" for executor, why in sorted(lost.items()))
            reason = f"{row.name}:{version.sha[:8]} does not fit everywhere where {row.name}:{row.current[:8]} answers ({told}), so it does not take over. Name the executors that shall have it in adapters.{row.name}.executors, or insist with 'consilium adapters switch {row.name} {version.sha[:8]} --force'"
            raise ConsiliumError("adapter_refused", reason=reason)
        await self._bring_beside(
            reference(row.name, row.current), reference(version.name, version.sha), lost
        )

    async def _sums_beside(self, name: str, version: StoredVersion) -> None:
        """Make the sums that are in use for another version of a part, and load them wherever the old ones are: so nobody waits for them once it answers.

        Only the sum of an adapter with its core stops the switch: without it that adapter could not answer. For the others their callers wait, as for new ones.
        """
        used = {name: uses.last_used_at for name, uses in self._uses.items()}
        standing = self.sums.standing()
        made = await self.sums.renewed(name, version, used)
        for old, new in made.items():
            try:
                await self._bring_beside(old, new)
            except ConsiliumError as error:
                if self.library.find(old).parts in standing:
                    raise
                _log.warning("sum_not_loaded", reference=new, reason=error.public())

    async def _bring_beside(self, old: str, new: str, but: Collection[str] = ()) -> None:
        held = self.fleet.places(old)
        for tier, kind in ((Placement.VRAM, MoveKind.SLOT), (Placement.RAM, MoveKind.RAM)):
            executors = {each.executor for each in held if each.tier is tier}.difference(but)
            if not executors:
                continue
            try:
                wait_s = SWITCH_S if kind is MoveKind.SLOT else MEMORY_S
                await self.fleet.bring(new, kind, executors, wait_s=wait_s)
            except ConsiliumError as error:
                if kind is MoveKind.SLOT or error.code != "deadline":
                    raise  # memory that is full of others holds no switch up: the first call brings it

    def _heard(self, report: Report) -> None:
        self._fitting.heard(report)
        self.changed()

    def _gone(self, executors: Collection[str]) -> None:
        self._fitting.forget(executors)
        self.changed()

    def _used(self, uses: Iterable[UseNote]) -> None:
        for use in uses:
            known = self._uses.get(use.reference)
            self._uses[use.reference] = use.uses if known is None else known + use.uses

    def _tried(self, executor: str, tried: TriedNote) -> None:
        _log.info("adapter_tried", reference=tried.reference, executor=executor, proof=tried.proof)
        self._later(self._kept(tried, self.fleet.revision(executor)))

    async def _kept(self, tried: TriedNote, revision: str) -> None:
        try:
            await self._proved(tried, revision)
        finally:
            self.fleet.noted(tried.reference, revision)

    async def _proved(self, tried: TriedNote, revision: str) -> None:
        try:
            known = self.library.find(tried.reference)
            if known.name == MIX and tried.proof is Proof.FAILED:
                return  # a load that failed says nothing of the numbers: the next call tries again
            living = frozenset(self.fleet.revisions().values())
            version = await self.library.judge(
                tried.reference, lambda version: _judged(version, tried, revision, living)
            )
        except ConsiliumError as error:
            _log.warning("proof_not_kept", reference=tried.reference, reason=error.public())
            return
        name = version.name
        self.changed()
        if name == MIX:
            return
        if self.library.holdings.named(name).waiting == version.sha:
            await self._takeover.of(name)
        elif tried.proof is Proof.OK:
            await self.sums.prepare([name])

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _judged(
    version: StoredVersion, tried: TriedNote, revision: str, living: Collection[str]
) -> StoredVersion:
    """Return a version with one more trial. Its owner's word outlives what a canary finds."""
    after = trials.after(version, revision, Trial(tried.proof, tried.fingerprint), living)
    now = replace(
        version,
        proof=trials.all_in_all(after, tried.proof),
        proof_json=tried.figures,
        fingerprint=tried.fingerprint,
        trials=after,
    )
    return replace(now, proof_json=rows.forced(now)) if rows.is_forced(version) else now
