"""Sums of adapters: made once, kept by their address, made anew for a new version of a part before that version answers.

    reference = await sums.of([("core:3f9c...", 1.0), ("sport:77ab...", 0.7)])
    made = await sums.renewed("sport", version)          old reference -> new one

Their files are checked like those of every adapter, so a sum that holds no numbers, or changes nothing, is refused before it is stored. Knows the library. Does not know
engines or formats.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import rows, trials
from consilium.lora_router.identity import MIX, Part, parse, reference, sum_sha
from consilium.lora_router.library import Library
from consilium.lora_router.ports import Placement, Proof, Registered, StoredVersion

Parts: TypeAlias = tuple[tuple[str, float], ...]
"""Of a sum: reference and weight of each."""

USED_S: Final = 86_400.0
"""A sum that was used within so long is made for a new version of a part before that version answers."""
MOST_AT_ONCE: Final = 2
"""So many sums that only requests name are made at once: each takes a core and its own bytes beside the store."""
MOST_ALIKE: Final = 1024
MOST_RENEWED: Final = 16
"""At most so many of them, those that were used last: weights come from anybody's requests, and each sum takes seconds."""

RENEW_S: Final = 30.0
"""The switch waits no longer than this for the next of them: the rest are made when somebody asks, as new ones are."""

_log = logs.get("lora_router")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a sum is made with.

    compose       ((folder, weight) each, folder to write into, largest rank) -> None; blocks. Raises ConsiliumError(adapter_refused)
    scratch       folder on the store's disk
    largest_rank  what engines hold; 0 = none has said
    changed       called once a sum is stored
    clock         says how long the making has taken
    answers       whether a stored sum answers on any engine
    """

    compose: Callable[[Sequence[tuple[Path, float]], Path, int], None]
    scratch: Path
    largest_rank: Callable[[], int]
    changed: Callable[[], None]
    clock: Clock
    answers: Callable[[StoredVersion], bool]


class Sums:
    """One per room. `roles` are the adapters of each role, as the configuration says them."""

    def __init__(self, library: Library, stage: Stage) -> None:
        self._library, self._stage = library, stage
        self.roles: Mapping[str, tuple[str, ...]] = {}
        # address -> (hash, parts): weights so near to those of a stored sum that its content is the same; found again once after a start
        self._same: dict[str, tuple[str, Parts]] = {}
        self._places = asyncio.Semaphore(MOST_AT_ONCE)
        self._making: dict[str, asyncio.Future[str]] = {}
        # name -> sums that will stand once its new version answers
        self._coming: dict[str, frozenset[Parts]] = {}

    async def of(self, parts: Sequence[tuple[str, float]]) -> str:
        """Return the reference of a sum of (reference, weight), made where it is not stored yet. Two who ask at once wait for one making.

        Raises ConsiliumError: adapter_unknown; adapter_refused where it cannot be exact, or every model that may hold it has tried it and it is not sound.
        """
        found = [(self._library.find(name), weight) for name, weight in parts]
        address = sum_sha([(version.sha, weight) for version, weight in found])
        there = self._library.find_sum(address) or self._alike(address)
        if there is not None:
            self._demand_sound(there)
            return reference(MIX, there.sha)
        making = self._making.get(address)
        if making is None:
            making = self._making[address] = asyncio.ensure_future(self._made(address, found))
            making.add_done_callback(lambda done: self._ended(address, done))
        return await asyncio.shield(making)

    def standing(self) -> dict[Parts, Placement]:
        """Return the sums of adapters with their cores, as they are now, and where each is to be."""
        found: dict[Parts, Placement] = {}
        for row in self._library.names():
            if row.with_core:
                found.setdefault(self._standing_of(row), row.placement)
        return found

    def alike(self, sha: str) -> list[Parts]:
        """Return other parts that come to the content of a stored sum."""
        return [parts for other, parts in self._same.values() if other == sha]

    def _alike(self, address: str) -> StoredVersion | None:
        if address not in self._same:
            return None
        try:
            return self._library.find(reference(MIX, self._same[address][0]))
        except ConsiliumError:  # it has made room
            del self._same[address]
            return None

    def lasting(self) -> frozenset[Parts]:
        """Return the sums that are no request's alone: of adapters with their cores, and of roles, as they are and as a switch under way will leave them. They make no room for one that is."""
        found = {*self.standing(), *map(self._of_role, self.roles.values())}.union(
            *self._coming.values()
        )
        return frozenset(found - {()})

    def roles_with(self, name: str, sha: str = "") -> tuple[str, ...]:
        """Return the roles that name an adapter, or that name this version of it."""
        found = []
        for role, adapters in self.roles.items():
            for text in adapters:
                other, _, beginning = text.partition("@")[0].partition(":")
                if other == name and (not sha or (beginning and sha.startswith(beginning))):
                    found.append(role)
                    break
        return tuple(sorted(found))

    def _of_role(self, adapters: tuple[str, ...]) -> Parts:
        """Return the parts of what answers in a role, as the gateway adds them up; nothing where one of them is not there."""
        try:
            told = parse("+".join(adapters), param="roles") if adapters else ()
            rows_of = {part.name: self._library.get(part.name)[0] for part in told}
            weights = {
                str(Part(part.name, part.sha)): part.weight
                if part.is_weighed
                else rows_of[part.name].weight
                for part in told
            }
            if len(told) == 1 and (core := rows_of[told[0].name].with_core):
                weights[core] = rows_of[told[0].name].core_weight
            found = [(self._library.find(text), weight) for text, weight in weights.items()]
        except ConsiliumError:
            return ()
        return tuple(sorted((reference(v.name, v.sha), weight) for v, weight in found))

    def is_to_be_tried(self, version: StoredVersion) -> bool:
        """Say whether an engine that has not tried a sum should: not where somebody insists on one of its parts, whatever that does."""
        try:
            parts = [self._library.find(part) for part, _ in version.parts]
        except ConsiliumError:
            return False  # a part is being removed
        return all(part.proof is Proof.OK and not rows.is_forced(part) for part in parts)

    async def prepare(self, names: Iterable[str] = ()) -> None:
        """Make every sum of an adapter with its core that is not there yet: of these names, or of all."""
        wanted = frozenset(names)
        for name in wanted:  # what was coming stands now
            self._coming.pop(name, None)
        for row in self._library.names():
            if not row.with_core or (wanted and not wanted & {row.name, row.with_core}):
                continue
            parts = self._standing_of(row)
            if parts:
                try:
                    await self.of(parts)
                except ConsiliumError as error:
                    _log.error("sum_not_made", adapter=row.name, reason=error.public())

    async def renewed(
        self, name: str, version: StoredVersion, used_at: Mapping[str, float]
    ) -> dict[str, str]:
        """Make the sums in which a name's current version is anew, with `version` in its place; return old reference -> new one.

        used_at  reference -> when it was used last, where that is not written down yet

        Sums of adapters with their cores are made all, the others where they were used lately and as long as there is time (RENEW_S); one of those that cannot be made is
        told in the log.
        Raises ConsiliumError(adapter_refused) where an adapter could not be added to its core any more.
        """
        row, _ = self._library.get(name)
        if row.current in ("", version.sha):
            return {}
        old, new = reference(name, row.current), reference(name, version.sha)
        standing, lasting = self.standing(), self.lasting()
        made: dict[str, str] = {}
        clock = self._stage.clock
        ends = clock.monotonic() + RENEW_S
        anew = {
            parts: tuple(sorted((new if part == old else part, weight) for part, weight in parts))
            for parts in self._in_use(old, standing, used_at, clock.now())
        }
        self._coming[name] = frozenset(after for parts, after in anew.items() if parts in lasting)
        for parts, after in anew.items():
            if parts not in standing and clock.monotonic() >= ends:
                _log.warning("sums_left_to_callers", adapter=name, made=len(made))
                break
            try:
                found = await self.of(after)
            except ConsiliumError as error:
                if parts in standing:
                    self._coming.pop(name, None)
                    raise
                _log.warning("sum_not_renewed", parts=str(after), reason=error.public())
                continue
            before = self._stored(parts)
            if before is not None:
                made[reference(MIX, before.sha)] = found
        return made

    def _in_use(
        self, part: str, standing: Iterable[Parts], used_at: Mapping[str, float], now: float
    ) -> list[Parts]:
        """Return the sums in which a version is: those that stand, then those that were used lately, the last one first."""
        found = [parts for parts in standing if any(name == part for name, _ in parts)]
        last: dict[Parts, float] = {}
        for version in self._library.versions():
            if version.name != MIX or not any(name == part for name, _ in version.parts):
                continue
            name = reference(MIX, version.sha)
            at = max(self._library.uses(name).last_used_at, used_at.get(name, 0.0))
            if now - at < USED_S and version.parts not in found:
                last[version.parts] = at
        lately = sorted(last, key=lambda parts: last[parts], reverse=True)
        return [*found, *lately[:MOST_RENEWED]]

    def _stored(self, parts: Parts) -> StoredVersion | None:
        try:
            told = [(self._library.find(name).sha, weight) for name, weight in parts]
        except ConsiliumError:
            return None
        return self._library.find_sum(sum_sha(told))

    def _standing_of(self, row: Registered) -> Parts:
        """Return the parts of an adapter with its core, as they are now."""
        try:
            own = self._library.find(row.name)
            core = self._library.find(row.with_core)
        except ConsiliumError:
            return ()
        return tuple(
            sorted(
                (
                    (reference(own.name, own.sha), row.weight),
                    (reference(core.name, core.sha), row.core_weight),
                )
            )
        )

    async def _made(self, address: str, parts: list[tuple[StoredVersion, float]]) -> str:
        for version, _ in parts:
            row = self._library.holdings.names.get(version.name)
            if row is not None and row.registered.isolated and len(parts) > 1:
                reason = f"{version.name!r} is isolated, so it is never added to another one"
                raise ConsiliumError("adapter_refused", reason=reason)
        told = tuple(sorted((reference(each.name, each.sha), weight) for each, weight in parts))
        if told in self.lasting():
            return await self._composed(address, parts, told)
        async with self._places:
            return await self._composed(address, parts, told)

    async def _composed(
        self, address: str, parts: list[tuple[StoredVersion, float]], told: Parts
    ) -> str:
        stage = self._stage
        try:
            stage.scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="sum-", dir=stage.scratch))
        except OSError as error:
            raise _disk(error) from error
        try:
            given = [(version.path, weight) for version, weight in parts]
            try:
                await asyncio.to_thread(stage.compose, given, folder, stage.largest_rank())
            except OSError as error:
                raise _disk(error) from error
            stored = await self._library.add_sum(address, told, folder)
            if stored.parts != told:
                self._same[address] = stored.sha, told
                while len(self._same) > MOST_ALIKE:
                    del self._same[next(iter(self._same))]
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        stage.changed()
        return reference(MIX, stored.sha)

    def _ended(self, address: str, done: asyncio.Future[str]) -> None:
        self._making.pop(address, None)
        if not done.cancelled():
            done.exception()  # whoever waited has seen it

    def _demand_sound(self, version: StoredVersion) -> None:
        """Raise ConsiliumError(adapter_refused) where a sum answers nowhere: engines have tried it, and it does nothing or is broken."""
        if self._stage.answers(version):
            return
        proof = trials.fault(version)
        parts = ", ".join(f"{part}@{weight:g}" for part, weight in version.parts)
        reason = f"the sum of {parts} is {proof}: an engine has tried it. Give other weights, or look at its figures: 'consilium adapters ls --sums'"
        raise ConsiliumError("adapter_refused", reason=reason, check=str(proof))


def _disk(error: OSError) -> ConsiliumError:
    """Return what a disk that took no sum says."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ConsiliumError("disk_full", str(error))
    reason = error.strerror or type(error).__name__
    return ConsiliumError("part_failed", str(error), name="a sum of adapters", reason=reason)
