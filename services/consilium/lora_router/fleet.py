"""Every replica as it last said it is, against what is wanted of it: the difference is the next move.

    wanted = await fleet.report(report)      a replica's long poll
    await fleet.bring("sport:3f9c...", MoveKind.SLOT, executors)   returns when every replica has it

A replica owns its slots; here only wishes are kept, so a router that starts anew knows everything again as soon as the replicas have spoken. Pure but for its clock
and events. Does not know files, SQL or the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.common_engine import common
from consilium.lora_router.identity import MIX
from consilium.lora_router.ports import Placement, Proof
from consilium.lora_router.replica import LONGEST_WAIT_S, Replica
from consilium.lora_router.reports import Move, MoveKind, Report, Target, TriedNote, UseNote, Wanted

MEETING_S: Final = 5.0
"""So long after its start the room does not know yet who holds what: replicas that it had before come back within it."""
HINT_SHARE: Final = 4
"""At most one place in memory of so many is filled by hints."""
GONE_S: Final = 600.0
"""An executor that has had no replica for so long is gone: it holds nobody up, and is told everything anew if it comes back. An engine that starts again takes less."""
EVERY: Final = ""
"""Stands for every executor."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one replica has a version. `silent_since` is in Unix seconds: it may be gone; 0 = it is there."""

    executor: str
    replica: str
    tier: Placement
    slot: int | None = None
    pinned: bool = False
    in_use: int = 0
    exact: bool = False
    silent_since: float = 0.0


class Fleet:
    """The replicas that have spoken.

    targets   executor -> reference -> target: asked anew after each `changed`
    on_tried  takes the result of a canary
    on_uses   takes what was used
    on_gone   takes executors that nobody waits for any more
    before    is awaited before a report is taken
    on_executor  called with what its replicas have in common, when an executor is heard for the first time, or that is another model or engine now
    """

    def __init__(
        self,
        clock: Clock,
        *,
        targets: Callable[[str], Mapping[str, Target]],
        on_tried: Callable[[str, TriedNote], None],
        on_uses: Callable[[Iterable[UseNote]], None],
        on_executor: Callable[[Report], None] = lambda _report: None,
        on_gone: Callable[[Collection[str]], None] = lambda _executors: None,
        before: Callable[[Report], Awaitable[None]] | None = None,
    ) -> None:
        self._clock = clock
        self._targets_of = targets
        self._on_tried, self._on_uses, self._on_executor = on_tried, on_uses, on_executor
        self._on_gone, self._before = on_gone, before
        self._replicas: dict[str, Replica] = {}
        # Versions and numbers of moves begin at the time, so that those of a former life are never ours.
        self._begun = self._version = self._next_move = int(clock.now() * 1000)
        self._begun_at = clock.monotonic()
        self._targets: dict[str, dict[str, Target]] = {}
        self._changed_at: dict[str, dict[str, int]] = {}
        self._bases: dict[str, tuple[tuple[str, str], int, tuple[str, ...], bool]] = {}
        self._spoke_at: dict[str, float] = {}
        self._forgotten_at: dict[str, int] = {}
        self._wishes: dict[tuple[str, str], MoveKind] = {}
        self._hints: dict[str, float] = {}
        # (revision of a model, reference): a verdict is being written down, so the target still says that nobody has tried it
        self._tried: set[tuple[str, str]] = set()
        self._event = asyncio.Event()
        self._is_closed = False

    # what is asked

    def executors(self) -> dict[str, Report]:
        """Return each executor with the last report of one of its replicas."""
        self._forget_silent()
        return {each.report.executor: each.report for each in self._replicas.values()}

    def revision(self, executor: str) -> str:
        """Return the short fingerprint of an executor's model; "" = nobody has told."""
        return self._bases.get(executor, (("", ""),))[0][0]

    def revisions(self) -> Mapping[str, str]:
        """Return executor -> short fingerprint of its model, for all that were heard and are not gone."""
        return {executor: self.revision(executor) for executor in self._bases}

    def replicas(self, executors: Iterable[str] = ()) -> dict[str, Report]:
        """Return the replicas that nobody has given up, of these executors or of all."""
        self._forget_silent()
        named = frozenset(executors)
        return {
            name: each.report
            for name, each in self._replicas.items()
            if not named or each.report.executor in named
        }

    def speaking(self) -> tuple[Report, ...]:
        """Return the last report of each replica that is there: not of those that are silent."""
        now = self._clock.monotonic()
        there = (each for each in self._replicas.values() if each.silent_from(now) is None)
        return tuple(each.report for each in there)

    def places(self, reference: str) -> tuple[Place, ...]:
        """Return where a version is now."""
        found = []
        for name, report in self.replicas().items():
            since = self._silent_since(name)
            in_use = next((u.in_use for u in report.uses if u.reference == reference), 0)
            slot = next((s for s in report.slots if s.reference == reference), None)
            where: tuple[Placement, int | None, bool]
            if slot is not None:
                where = (Placement.VRAM, slot.slot, slot.pinned)
            elif reference in report.ram:
                where = (Placement.RAM, None, False)
            else:
                continue
            tier, number, pinned = where
            found.append(
                Place(report.executor, name, tier, number, pinned, in_use, report.exact, since)
            )
        return tuple(found)

    def failure(self, reference: str) -> str:
        """Return why a version could not be loaded where it was last tried, or ""."""
        told = (each.failures.get(reference, "") for each in self._replicas.values())
        return next((why for why in told if why), "")

    # what is told

    def changed(self) -> None:
        """Ask for the targets of every executor that was heard anew, and let waiting polls see them."""
        for executor in list(self._targets):  # those whose replicas are all away, too
            self._renew(executor)
        self._wake()

    def forgive(self, reference: str) -> None:
        """Ask for a version again where it could not be loaded."""
        for each in self._replicas.values():
            each.loads(reference)
            each.forgive({reference})

    def noted(self, reference: str, revision: str) -> None:
        """Take note that a verdict on a version is written down, or lost: what its target says counts again."""
        self._tried.discard((revision, reference))
        self._wake()

    def hint(self, references: Iterable[str], until: float) -> None:
        """Have these in memory, where there is room, until then (Unix seconds)."""
        for reference in references:
            self._hints[reference] = max(until, self._hints.get(reference, 0.0))
        self._wake()

    def lost(self, report: Report) -> None:
        """Take note that the connection of a report has ended before its answer: the replica may be gone, or comes back within seconds."""
        known = self._replicas.get(report.replica)
        if known is not None and known.report is report:
            known.lost = self._clock.monotonic()
            self._wake()

    def forget_gone(self) -> None:
        """Forget the executors that have had no replica for `GONE_S`. What one of their replicas knows of targets then is worth nothing."""
        now = self._clock.monotonic()
        there = self.executors()
        gone = [e for e, at in self._spoke_at.items() if e not in there and now - at > GONE_S]
        if not gone:
            return
        self._version += 1
        for executor in gone:
            for known in (self._spoke_at, self._bases, self._targets, self._changed_at):
                known.pop(executor, None)
            self._forgotten_at[executor] = self._version
        self._on_gone(gone)

    def close(self) -> None:
        """Let go of all who wait for wishes: the room ends, and they ask the next one."""
        self._is_closed = True
        self._wake()

    async def report(self, report: Report) -> Wanted:
        """Take a report and return what is wanted, as soon as something is, at the latest after `wait_s`. Raises ConsiliumError(upstream_down) once it is closed."""
        if self._before is not None:
            await self._before(self._common(report))
        self._take(report)
        ends = self._clock.monotonic() + max(0.0, min(report.wait_s, LONGEST_WAIT_S))
        while True:
            if self._is_closed:
                raise ConsiliumError(
                    "upstream_down", name="the room of adapters", retry_after_s=1.0
                )
            event = self._event
            wanted = self._wanted(report)
            left = ends - self._clock.monotonic()
            if not wanted.is_empty or left <= 0:
                return wanted
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, self._next_again(report.replica))):
                    await event.wait()
            newer = self._replicas.get(report.replica)
            if newer is not None and newer.report is not report:
                return Wanted(
                    report.version
                )  # the replica has given this poll up and asks in another

    async def bring(
        self, reference: str, kind: MoveKind, executors: Iterable[str] = (), *, wait_s: float = 60.0
    ) -> tuple[Place, ...]:
        """Have a version in a slot, in memory, or nowhere, on every replica of these executors that may hold it; return where it is.

        Raises ConsiliumError(adapter_refused) with the engine's reason, or (deadline) with the replicas that are still missing.
        """
        if (
            kind is MoveKind.EVICT
        ):  # also where nobody should have it, and by who has not spoken yet
            named = list(executors) or [EVERY]
        else:
            there = {report.executor for report in self.replicas(executors).values()}
            named = [executor for executor in there if reference in self._targets_of(executor)]
        if not named:
            raise ConsiliumError(
                "adapter_refused",
                reason=f"no engine that is up may hold {reference}; 'consilium adapters show' says why",
            )
        for executor in named:
            self._wishes[executor, reference] = kind
        self.forgive(reference)
        self._wake()
        try:
            await self._settled(reference, kind, named, wait_s)
        finally:
            for executor in named:
                self._wishes.pop((executor, reference), None)
        return self.places(reference)

    async def _settled(
        self, reference: str, kind: MoveKind, executors: list[str], wait_s: float
    ) -> None:
        ends = self._clock.monotonic() + wait_s
        met_at = self._begun_at + MEETING_S if kind is MoveKind.EVICT else 0.0
        while True:
            event = self._event
            missing = []
            for name, report in self.replicas(e for e in executors if e != EVERY).items():
                if report.has_done(kind, reference) and (
                    kind is not MoveKind.EVICT or self._has_let_go(name, reference)
                ):
                    continue
                why = self._replicas[name].failures.get(reference)
                if why and kind is not MoveKind.EVICT:
                    raise ConsiliumError(
                        "adapter_refused", reason=f"{name} could not load {reference}: {why}"
                    )
                missing.append(name)
            left = max(ends, met_at) - self._clock.monotonic()
            if not missing and self._clock.monotonic() >= met_at:
                return
            if left <= 0:
                raise ConsiliumError(
                    "deadline",
                    f"{reference}: {kind} is not done on {', '.join(missing)}",
                    name=f"adapter {reference} on {', '.join(missing)}",
                    seconds=wait_s,
                )
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await event.wait()
            except TimeoutError:
                continue

    def _has_let_go(self, replica: str, reference: str) -> bool:
        """Say whether a replica that does not hold a version will not have it a moment later either: it has heard that it is gone, and loads it no more."""
        known = self._replicas[replica]
        heard = self._changed_at.get(known.report.executor, {}).get(reference, 0)
        loading = any(
            what == reference and kind is not MoveKind.EVICT for kind, what in known.asked
        )
        return known.report.version >= heard and not loading

    # how it is found out

    def _take(self, report: Report) -> None:
        now = self._clock.monotonic()
        known = self._replicas.get(report.replica)
        if known is None or known.begins_anew(report):
            # One that knows of nothing has begun anew: what its former life was asked for, and could not do, is over.
            self._replicas.pop(report.replica, None)  # they stand in the order of their beginning
            known = self._replicas[report.replica] = Replica(report, now)
        self._spoke_at[report.executor] = now
        known.config = report.base_config or known.config
        self._learn_engine(self._common(report))
        known.report, known.heard = report, now
        for use in report.uses:
            if use.failure:
                known.fail(use.reference, use.failure, now)
            elif use.uses.last_used_at:
                known.loads(use.reference)
        known.lost = None
        known.hear(report.done, report.doing, now)
        self._forget_silent()
        self._on_uses(report.uses)
        for tried in report.tried:
            self._tried.add((self.revision(report.executor), tried.reference))
            self._on_tried(report.executor, tried)
        if report.executor not in self._targets:
            self._renew(report.executor)
        self._wake()

    def _common(self, report: Report) -> Report:
        """Return what the replicas of an executor that are there have in common once one of them has reported this."""
        now, told = self._clock.monotonic(), {}
        for name, each in self._replicas.items():
            if each.report.executor == report.executor and not each.is_gone(now):
                told[name] = replace(each.report, base_config=each.config)
        known = self._replicas.get(report.replica)
        if known is None or known.begins_anew(report):
            told.pop(report.replica, None)
        else:
            report = replace(report, base_config=report.base_config or known.config)
        told[report.replica] = report
        return common(list(told.values()))

    def _learn_engine(self, report: Report) -> None:
        revision, config = self._bases.get(report.executor, (("", ""),))[0]
        told = (report.base_revision or revision, report.base_config or config)  # sent once
        base = (told, report.max_rank, report.target_modules, report.mixed_experts)
        if self._bases.get(report.executor) != base:
            before = dict(self._bases)
            self._bases[report.executor] = base
            try:
                self._on_executor(report)
            except BaseException:
                self._bases = before  # nobody has taken it in: the next report tells it again
                raise

    def _renew(self, executor: str) -> None:
        new = dict(self._targets_of(executor))
        old = self._targets.get(executor, {})
        touched = [
            reference
            for reference in (*new, *(gone for gone in old if gone not in new))
            if (known := old.get(reference)) is not (now := new.get(reference)) and known != now
        ]
        self._targets[executor] = new
        if touched:
            for each in self._replicas.values():
                if each.report.executor == executor:
                    each.forgive(touched)
            self._version += 1
            self._changed_at.setdefault(executor, {}).update(dict.fromkeys(touched, self._version))

    def _wanted(self, report: Report) -> Wanted:
        targets = self._targets.get(report.executor, {})
        moves = self._moves(report, targets)
        oldest = self._forgotten_at.get(report.executor, self._begun)
        if not oldest <= report.version <= self._version or report.version == 0:
            return Wanted(self._version, True, tuple(targets.values()), (), moves)
        since = [
            reference
            for reference, at in self._changed_at.get(report.executor, {}).items()
            if at > report.version
        ]
        changed = tuple(targets[reference] for reference in since if reference in targets)
        gone = tuple(reference for reference in since if reference not in targets)
        version = self._version if since else report.version
        return Wanted(version, False, changed, gone, moves)

    def _moves(self, report: Report, targets: Mapping[str, Target]) -> tuple[Move, ...]:
        known = self._replicas.get(report.replica)
        if known is None:
            return ()
        now = self._clock.monotonic()
        found = []
        wanted = self._open_moves(report, targets, known)
        if known.give_up(wanted, now):
            self._wake()
        for kind, reference in wanted:
            number = known.ask((kind, reference), now, self._next_move + 1)
            if number:
                self._next_move = max(self._next_move, number)
                found.append(Move(number, kind, reference))
        return tuple(found)

    def _next_again(self, replica: str) -> float:
        known = self._replicas.get(replica)
        return LONGEST_WAIT_S if known is None else known.next_again(self._clock.monotonic())

    def _open_moves(
        self, report: Report, targets: Mapping[str, Target], known: Replica
    ) -> list[tuple[MoveKind, str]]:
        """Return what is not as it should be: what must go, what is pinned, what somebody waits for, what is kept in memory, what is not tried yet."""
        held, in_slots, now = report.held, report.in_slots, self._clock.monotonic()
        wishes = {
            reference: kind
            for (executor, reference), kind in self._wishes.items()
            if executor in (report.executor, EVERY)
        }
        knows_model = bool(self._bases.get(report.executor, (("", ""),))[0][1])
        going = [
            reference
            for reference in held
            if wishes.get(reference) is MoveKind.EVICT
            or ((targets or knows_model) and reference not in targets)
        ]
        # One slot is left for the others: a replica pins the first ones, and is not asked for more than it can keep.
        firm = [target for target in targets.values() if target.placement is Placement.VRAM]
        spare = len(report.slots) - 1 - sum(target.reference in in_slots for target in firm)
        pinned = [t.reference for t in firm if t.reference not in in_slots][: max(0, spare)]
        wanted = [
            (kind, reference)
            for reference, kind in wishes.items()
            if kind is not MoveKind.EVICT
            and reference in targets
            and not report.has_done(kind, reference)
        ]
        in_ram = [
            target.reference
            for target in targets.values()
            if target.placement is Placement.RAM and target.reference not in held
        ]
        room = max(0, report.ram_places - len(held) - len(pinned))
        in_ram = in_ram[:room]
        hinted = self._hinted(targets, held)[: max(0, (room - len(in_ram)) // HINT_SHARE)]
        tries = [
            target.reference
            for target in targets.values()
            if target.proof is Proof.UNPROVEN
            and (self.revision(report.executor), target.reference) not in self._tried
            and not known.rests(target.reference, now)
            and not self._is_tried_elsewhere(report, target)
            and (target.reference in held or not target.reference.startswith(f"{MIX}:"))
        ][:1]  # sums come from anybody's weights: none is loaded only to be tried
        moves = [
            *((MoveKind.EVICT, reference) for reference in going),
            *((MoveKind.SLOT, reference) for reference in pinned),
            *wanted,
            *((MoveKind.RAM, reference) for reference in (*in_ram, *hinted)),
            *((MoveKind.TRY, reference) for reference in tries),
        ]
        return [
            (kind, reference)
            for kind, reference in dict.fromkeys(moves)
            if kind is MoveKind.EVICT or not known.rests(reference, now)
        ]

    def _hinted(self, targets: Mapping[str, Target], held: frozenset[str]) -> list[str]:
        now = self._clock.now()
        self._hints = {reference: until for reference, until in self._hints.items() if until > now}
        return [name for name in self._hints if name in targets and name not in held]

    def _is_tried_elsewhere(self, report: Report, target: Target) -> bool:
        """Say whether another living replica has been asked to try it."""
        return any(
            (MoveKind.TRY, target.reference) in each.asked
            for name, each in self._replicas.items()
            if name != report.replica
            and self.revision(each.report.executor) == self.revision(report.executor)
        )

    def _forget_silent(self) -> None:
        now = self._clock.monotonic()
        for name in [name for name, each in self._replicas.items() if each.is_gone(now)]:
            del self._replicas[name]

    def _silent_since(self, replica: str) -> float:
        now = self._clock.monotonic()
        since = self._replicas[replica].silent_from(now)
        return 0.0 if since is None else self._clock.now() - (now - since)

    def _wake(self) -> None:
        self._event.set()
        self._event = asyncio.Event()
