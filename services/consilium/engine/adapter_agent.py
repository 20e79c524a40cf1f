"""What an engine replica tells the router of its adapters, and how it does what the router wants.

    agent.prepare()   before the replica says ready: asks what is wanted, and has what is pinned in slots; raises where that cannot be had
    agent.run()       tells what changes, waits for wishes, fulfils them; goes on when the router was away

A report is a long poll: answered when something is wanted, or after half a minute. What changes here is told in a new one; the router answers the old one then.
Knows reports as dicts by the names of lora_router.proto. Does not know the wire, files or vLLM.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consilium.engine.adapter_desk import LOAD, AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.canary import Verdict, agrees
from consilium.engine.slots import Figures, Tier
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.planner.lora_settings import READY_S

_log = logs.get("engine")

POLL_S: Final = 30.0
FIRST_S: Final = 10.0
"""Longest that a replica waits for the router before it says ready without adapters."""
TRIALS_S: Final = 60.0
"""Longest that a replica tries new adapters before it says ready; the rest are tried while it answers."""
TOLD_S: Final = 2.0
"""Longest that it waits for what the router makes of a verdict."""
BETWEEN_S: Final = 1.0
"""Changes of slots and memory are told at most so often; what was asked for is told at once."""
WAY_OUT: Final = (
    "Where 'ls' of the folder hangs, mount its disk anew; where the files have changed, add the adapter again; or let engines start without it:"
    " 'consilium adapters place NAME ram', or placement: ram in the configuration"
)
AGAIN_S: Final = 60.0
"""An adapter is not tried twice within this time: the router asks again while it writes down what came of the first trial."""
PAUSES_S: Final = (0.5, 1.0, 2.0)
_PLACEMENTS: Final = {"TIER_VRAM": "vram", "TIER_RAM": "ram", "TIER_SSD": "ssd"}
_TIERS: Final = {"MOVE_KIND_SLOT": Tier.SLOT, "MOVE_KIND_RAM": Tier.RAM}


class Router(Protocol):
    """The room of adapters, seen from a replica."""

    async def report(self, report: dict[str, Any]) -> dict[str, Any]:
        """Send a ReportRequest, return the ReportResponse. Raises ConsiliumError."""


class Canary(Protocol):
    """Tries adapters on this engine."""

    async def try_out(self, target: AdapterTarget) -> Verdict:
        """Return what came of it, in a pause of the engine's work."""

    async def fingerprint(self, target: AdapterTarget) -> str:
        """Return what the adapter shows now."""


async def _sees_nothing(_path: str) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Replica:
    """Who reports. `base_config` is the model's config.json, `sees` says whether a folder of the store is there; it may raise ConsiliumError(disk_silent).

    target_modules  modules that have slots; empty = every one
    mixed_experts   whether the engine takes experts in both layouts
    """

    executor: str
    name: str
    revision: str
    max_rank: int
    base_config: str
    sees: Callable[[str], Awaitable[bool]] = _sees_nothing
    target_modules: tuple[str, ...] = ()
    mixed_experts: bool = False


class AdapterAgent:
    """One per replica. `prepare`, then `run` in a task.

    ready_s  longest that `prepare` waits for the next pinned adapter
    """

    def __init__(
        self,
        desk: AdapterDesk,
        router: Router,
        replica: Replica,
        canary: Canary,
        *,
        ready_s: float = READY_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._desk, self._router, self._replica, self._canary = desk, router, replica, canary
        self._sleep, self._ready_s = sleep, ready_s
        self._version = 0
        self._knows_base = False
        self._doing: set[tuple[int, str, str]] = set()  # number, kind, reference
        self._done: list[int] = []
        self._tried: list[dict[str, Any]] = []
        self._verdicts: dict[str, tuple[float, dict[str, Any]]] = {}
        self._told: object = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._trials: set[asyncio.Task[None]] = set()
        self._urgent = asyncio.Event()
        self._sees = False
        desk.on_new = self._check_later

    async def prepare(self) -> bool:
        """Return whether the router told what is wanted; then everything that is pinned is loaded, and what is kept here is loaded, failed or late.

        Raises ConsiliumError(part_failed) with the pinned adapters that cannot be had: their placement promises that they are here before this replica answers.
        """
        try:
            async with asyncio.timeout(FIRST_S):
                await self._first_answer()
        except Exception as error:  # whatever it is: a replica answers without adapters, too
            _log.warning("adapters_unknown", executor=self._replica.executor, cause=repr(error))
            return False
        if not await self._desk.settle(self._ready_s):
            late = ", ".join(sorted(self._desk.slots.fetching))
            _log.warning("adapters_late", executor=self._replica.executor, adapters=late)
        with suppress(TimeoutError, ConsiliumError):
            async with asyncio.timeout(TRIALS_S):
                await self._all_tried()
        await self._all_pinned()
        return True

    async def _all_pinned(self) -> None:
        """Return when every pinned adapter is in its slot. The router is asked meanwhile: its owner may give one another placement."""
        desk, told = self._desk, ""
        missing, since = desk.missing(), time.monotonic()
        while missing:
            left = since + self._ready_s - time.monotonic()
            why = "; ".join(self._missing(name, reason) for name, reason in missing.items())
            if left <= 0:
                reason = f"adapters with placement vram cannot be loaded: {why}. {WAY_OUT}"
                raise ConsiliumError(
                    "part_failed", name=f"executor {self._replica.executor}", reason=reason
                )
            if why != told:
                _log.warning("adapters_missing", executor=self._replica.executor, reason=why)
                told = why
            await _either(desk.changed.wait(), self._ask_quietly(min(TOLD_S, left)))
            if (now := desk.missing()).keys() != missing.keys():
                since = time.monotonic()
            missing = now

    async def _ask_quietly(self, wait_s: float) -> None:
        """Ask, or rest as long where the router is away."""
        try:
            await self._ask(wait_s)
        except ConsiliumError:
            await self._sleep(wait_s)

    def _missing(self, name: str, reason: str) -> str:
        target = self._desk.targets.get(name)
        where = "" if target is None else f" ({target.path})"
        return f"{name}{where}: {reason or 'it is still being read'}"

    async def _all_tried(self) -> None:
        """Try what nobody has tried yet, one after another, while this engine has no other work; then what is to be pinned is in its slot."""
        while self._trials:
            await asyncio.wait(set(self._trials))
            await self._ask(TOLD_S)
            await self._desk.settle(self._ready_s)

    async def _first_answer(self) -> None:
        while True:
            try:
                await self._ask(0.0)
            except ConsiliumError as error:
                if not error.row.retry:
                    raise
                await self._sleep(PAUSES_S[0])
            else:
                return

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        polls: set[asyncio.Task[bool]] = set()
        latest: asyncio.Task[bool] | None = None
        told_at, away = 0.0, 0
        try:
            while True:
                if latest is None:
                    latest, told_at = asyncio.create_task(self._poll()), time.monotonic()
                    polls.add(latest)
                changed = asyncio.create_task(self._news(told_at))
                try:
                    await asyncio.wait({*polls, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                ended = {poll for poll in polls if poll.done()}
                polls -= ended
                # One that a newer one has taken over from is answered too: it calls for no other, or each would end the one before without end.
                if changed.done() or latest in ended:
                    latest = None
                if any(not poll.result() for poll in ended):
                    if not away:
                        _log.warning("router_away", executor=self._replica.executor)
                    await self._sleep(PAUSES_S[min(away, len(PAUSES_S) - 1)])
                    away += 1
                elif ended:
                    if away:
                        _log.info("router_back", executor=self._replica.executor)
                    away = 0
        finally:
            for poll in polls:
                poll.cancel()

    def close(self) -> None:
        """Let go of what is under way."""
        for task in self._tasks:
            task.cancel()

    async def _poll(self) -> bool:
        try:
            await self._ask(POLL_S)
        except ConsiliumError:
            return False
        except Exception as error:  # one answer that cannot be taken ends no reporting
            _log.error("router_not_understood", cause=repr(error), exc_info=error)
            return False
        return True

    async def _news(self, told_at: float) -> None:
        """Return when there is something to tell: at once what was asked for, and what changed by itself after a while."""
        while True:
            changed = self._desk.changed
            if self._urgent.is_set():
                return
            if self._state() != self._told:
                left = told_at + BETWEEN_S - time.monotonic()
                if left <= 0:
                    return
                await _either(self._urgent.wait(), asyncio.sleep(left))
                continue
            await _either(self._urgent.wait(), changed.wait())

    # What is told

    def _state(self) -> object:
        book = self._desk.slots
        return self._desk.seen, book.firm, frozenset(book.in_use), bool(book.figures)

    def _report(self, wait_s: float) -> dict[str, Any]:
        desk, book, replica = self._desk, self._desk.slots, self._replica
        names = desk.names
        # What is gone and still on its way in is told as held: nobody may delete its files as if it were not.
        coming = book.fetching - desk.targets.keys()
        self._told = self._state()
        return {
            "executor": replica.executor,
            "replica": replica.name,
            "version": self._version,
            "slots": [
                {
                    "slot": place,
                    "reference": "" if number is None else names.get(number, f"#{number}"),
                    "pinned": number is not None and names.get(number) in book.firm,
                }
                for place, number in enumerate(desk.seen.slots)
            ],
            "ram": sorted((book.ram | coming) - book.in_slots),
            "max_rank": replica.max_rank,
            "ram_places": book.ram_places,
            "base_revision": replica.revision,
            "base_config_json": "" if self._knows_base else replica.base_config,
            "exact": True,
            "wait_s": wait_s,
            "sees_store": self._sees,
            "target_modules": list(replica.target_modules),
            "mixed_experts": replica.mixed_experts,
            "doing": sorted({number for number, _, _ in self._doing}),
            "tells_doing": True,
        }

    def _uses(self, taken: Mapping[str, Figures]) -> list[dict[str, Any]]:
        book, offset = self._desk.slots, time.time() - time.monotonic()
        names = {*taken, *book.in_use}
        rows = []
        for name in sorted(names):
            figures = taken.get(name)
            row: dict[str, Any] = {"reference": name, "in_use": book.in_use.get(name, 0)}
            if name in book.last_used:
                row["last_used_at"] = book.last_used[name] + offset
            if figures is not None:
                row |= {
                    "slot_hits": figures.slot,
                    "ram_hits": figures.ram,
                    "misses": figures.ssd,
                    "failure": figures.failure,
                }
            rows.append(row)
        return rows

    async def _ask(self, wait_s: float) -> None:
        """Send one report and do what is wanted. What it told goes into the next one if it did not arrive."""
        self._urgent.clear()
        done, self._done = self._done, []
        tried, self._tried = self._tried, []
        taken = self._desk.slots.take_figures()
        report = {**self._report(wait_s), "uses": self._uses(taken), "done": done, "tried": tried}
        told_base = report["base_config_json"] == self._replica.base_config
        try:
            answer = await self._router.report(report)
        except BaseException as error:
            self._done, self._tried = [*done, *self._done], [*tried, *self._tried]
            self._desk.slots.give_back(taken)
            self._desk.is_led &= not isinstance(error, Exception)
            raise
        self._desk.is_led = True
        if answer.get("whole") and not told_base:
            # The router began anew: it knows of no model here, so of no adapter that fits.
            self._knows_base, self._version = False, 0
            self._urgent.set()
            return
        self._knows_base = True
        self._obey(answer)

    # What is wanted

    def _obey(self, answer: Mapping[str, Any]) -> None:
        targets = [_target(row) for row in answer.get("targets", ())]
        gone = list(answer.get("gone", ()))
        if answer.get("whole"):
            named = {target.reference for target in targets}
            gone += [name for name in self._desk.targets if name not in named]
        if targets:
            self._spawn(self._look(targets[0].path))
        if targets or gone or answer.get("whole"):
            self._version = int(answer.get("version", 0))
            self._desk.told(targets, gone)
        for move in answer.get("moves", ()):
            asked = int(move["id"]), str(move["kind"]), str(move["reference"])
            self._urgent.set()  # that it has arrived is told at once: what is lost on its way is asked for again
            if asked in self._doing:
                continue  # the same number for something else is of a router that began anew
            self._doing.add(asked)
            task = self._spawn(self._move(*asked))
            if move["kind"] == "MOVE_KIND_TRY":
                self._trials.add(task)
                task.add_done_callback(self._trials.discard)

    async def _look(self, path: str) -> None:
        """Find out whether the store is seen here, beside everything else: a disk that hangs answers late."""
        try:
            seen = await self._replica.sees(path)
        except ConsiliumError:
            seen = False
        if seen is not self._sees:
            self._sees = seen
            self._urgent.set()

    async def _move(self, number: int, kind: str, reference: str) -> None:
        try:
            if kind == "MOVE_KIND_EVICT":
                await self._desk.evict(reference)
            elif kind == "MOVE_KIND_TRY":
                await self._try(reference)
            elif kind in _TIERS:
                await self._desk.place(reference, _TIERS[kind])
        except (
            Exception
        ) as error:  # the next report says what is held; a failed load is in it with its reason
            _log.warning("adapter_move_failed", adapter=reference, kind=kind, cause=repr(error))
        self._doing.discard((number, kind, reference))
        if all(other != number for other, _, _ in self._doing):
            self._done.append(number)
        self._urgent.set()

    async def _try(self, reference: str) -> None:
        target = self._desk.targets.get(reference)
        if target is None:
            return
        known = self._verdicts.get(reference)
        if known is not None and time.monotonic() - known[0] < AGAIN_S:
            self._tried.append(known[1])  # the router has not seen it yet
            return
        row: dict[str, Any] = {"reference": reference}
        try:
            verdict = await self._canary.try_out(target)
        except ConsiliumError as error:
            if error.code != "adapter_refused" or error.fields.get("check") != LOAD:
                raise  # a disk that is silent says nothing of the adapter: the room asks again
            row |= {"proof": "PROOF_FAILED", "figures_json": "{}"}
        else:
            row |= {
                "proof": f"PROOF_{verdict.proof.upper()}",
                "figures_json": verdict.figures,
                "fingerprint": verdict.fingerprint,
            }
        self._verdicts[reference] = time.monotonic(), row
        self._tried.append(row)

    # After a load

    def _check_later(self, target: AdapterTarget) -> None:
        """Hold what a freshly loaded adapter shows against its fingerprint, beside the call that it was loaded for."""
        if target.fingerprint:
            self._spawn(self._check(target))

    async def _check(self, target: AdapterTarget) -> None:
        name = target.reference
        try:
            if agrees(target.fingerprint, await self._canary.fingerprint(target)):
                return
            _log.error("adapter_differs", adapter=name, executor=self._replica.executor)
            await self._desk.distrust(name)
        except ConsiliumError as error:
            _log.warning("adapter_unchecked", adapter=name, cause=error.code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _target(row: Mapping[str, Any]) -> AdapterTarget:
    return AdapterTarget(
        reference=str(row["reference"]),
        sha=str(row["sha"]),
        number=int(row["lora_int_id"]),
        rank=int(row.get("rank", 0)),
        size_bytes=int(row.get("size_bytes", 0)),
        path=str(row["path"]),
        placement=_PLACEMENTS.get(str(row.get("placement")), "ssd"),
        is_3d=bool(row.get("is_3d", False)),
        fingerprint=str(row.get("fingerprint", "")),
    )


async def _either(*waits: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
