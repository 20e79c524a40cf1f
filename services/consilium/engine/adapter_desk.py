"""Adapters of one engine: lets calls in, and moves adapters between the store, the engine's memory and its slots.

    async with desk.hold(reference) as held: ...     the adapter is in a slot while the block runs

Asks slots.py what to do, and has a holder do it. An adapter is in a slot before a request names it, and stays there while one does; its files are read and
hashed before the engine reads them. Knows tasks and times. Does not know vLLM, the router or the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from difflib import get_close_matches
from itertools import chain
from typing import Final, TypeAlias

from consilium.engine.adapter_ports import AdapterTarget, Counts, Held, Holder, RanksDifferError
from consilium.engine.affinity import STATS_MOST, STATS_RAM, STATS_SLOTS
from consilium.engine.slots import Fetch, Load, SlotMap, Slots, Ticket, Tier
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

_log = logs.get("engine")

FETCHES: Final = 2
"""Adapters that are read from the store at once."""
NEWS_S: Final = 2.0
"""Longest that a call waits for the router to tell of its adapter."""
AWAY_S: Final = 2.0
"""Seconds after which a call is worth another try whose adapter was not told of, since the router was away."""
REST_S: Final = 5.0
"""Seconds for which an adapter that could not be loaded is not tried again."""


LOAD: Final = "load"
"""What a refusal says is wrong where it is the adapter itself that cannot be loaded; else the code of what kept it from being read: a disk, a full folder, the router."""

Files: TypeAlias = Callable[[AdapterTarget], AbstractAsyncContextManager[AdapterTarget]]


class AdapterDesk:
    """The adapters of one engine.

    files     reads the files of a target through and yields it with the folder where they are, when their hash is right; they stay there while the block runs
    on_new    is told of each adapter that was read from its files, once it is in a slot
    on_alarm  is told what must end this process
    is_led    whether the router is there: what it has not told of is not there then, else nobody knows
    """

    def __init__(
        self,
        holder: Holder,
        slots: Slots,
        *,
        files: Files,
        counts: Counts,
        on_alarm: Callable[[BaseException], None],
        executor: str = "core",
        news_s: float = NEWS_S,
    ) -> None:
        self.slots = slots
        self.targets: dict[str, AdapterTarget] = {}
        self.is_led = False
        self.seen = SlotMap((), frozenset())
        self.changed = asyncio.Event()
        self.files = files
        self.on_new: Callable[[AdapterTarget], None] = lambda _target: None
        self._new: set[str] = set()
        self._here: dict[str, AdapterTarget] = {}
        self._executor, self._news_s = executor, news_s
        self._holder = holder
        self._counts, self._on_alarm = counts, on_alarm
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended_at = time.monotonic()
        self._engine = asyncio.Lock()
        self._news = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def start(self) -> None:
        """Ask the engine what it holds. Raises what the holder raises."""
        self._take_over(await self._holder.look())

    def close(self) -> None:
        """Move nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    # Targets

    def told(self, targets: Sequence[AdapterTarget], gone: Sequence[str] = ()) -> None:
        """Take over what the router knows. What is gone takes no further calls; it is dropped by `evict`."""
        book = self.slots
        for target in targets:
            name = target.reference
            self.targets[name] = target
            self._names[target.number] = name
            self._numbers[name] = target.number
            book.resting.pop(name, None)
            book.let_go.discard(name)
            book.tell(name, placement=target.placement, size_bytes=target.size_bytes)
        for reference in gone:
            self.targets.pop(reference, None)
            book.forget(reference)
        self._news.set()
        self._news = asyncio.Event()
        self.pump()

    def want(self, hints: Mapping[str, float]) -> None:
        """Take hints: reference -> until when (on the monotonic clock) it is likely asked for."""
        self.slots.wanted.update(hints)
        self.pump()

    @property
    def names(self) -> Mapping[int, str]:
        """Return number -> reference of every adapter that was ever told of."""
        return self._names

    async def distrust(self, reference: str) -> None:
        """Take an adapter out that answers as another one would; it is read anew when somebody asks."""
        why = "it does not show what it showed when it was tried"
        for ticket in self.slots.failed(reference, why, time.monotonic() + REST_S):
            self._end(ticket, self._cannot(reference, why))
        await self.evict(reference)

    # Calls

    @asynccontextmanager
    async def hold(
        self, reference: str, *, gives_up_at: float | None = None
    ) -> AsyncIterator[Held]:
        """Hold an adapter in a slot.

        gives_up_at  when the caller gives up, on the monotonic clock

        Raises ConsiliumError: adapter_unknown, adapter_refused (it cannot be loaded; `check` is LOAD, or says what kept it from being read), no_free_lora_slot.
        """
        target = await self._known(reference)
        began = time.monotonic()
        self._refuse_broken(reference, began)
        ticket = self.slots.ask(reference, began, gives_up_at=gives_up_at)
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures[id(ticket)] = entered
        held_at = began
        try:
            self.pump()
            await entered
            held_at = time.monotonic()
            self._counts.hit(ticket.found)
            yield Held(self._here.get(reference, target), ticket.found, held_at - began)
        finally:
            self._futures.pop(id(ticket), None)
            now = time.monotonic()
            self.slots.release(ticket, now, turn_s=now - held_at)
            self._forget_gone(reference)
            self.pump()

    def _forget_gone(self, reference: str) -> None:
        """Forget what was noted of an adapter after it was told as gone."""
        if reference not in self.targets and self.slots.is_idle(reference):
            self.slots.forget(reference)

    async def _known(self, reference: str) -> AdapterTarget:
        limit = time.monotonic() + self._news_s
        while (target := self.targets.get(reference)) is None:
            news, left = self._news, limit - time.monotonic()
            try:
                await asyncio.wait_for(news.wait(), max(0.0, left))
            except TimeoutError:
                raise self._untold(reference) from None
        return target

    def _untold(self, reference: str) -> ConsiliumError:
        if not self.is_led:
            return ConsiliumError("adapter_down", name=reference, retry_after_s=AWAY_S)
        near = get_close_matches(reference, self.targets, n=1)
        if near:
            return ConsiliumError("adapter_unknown", name=reference, nearest=near[0])
        return ConsiliumError("adapter_unknown", name=reference)

    def _refuse_broken(self, reference: str, now: float) -> None:
        if self._rests(reference, now):
            raise self._cannot(reference, self.slots.reasons[reference])

    def _cannot(self, reference: str, why: str) -> ConsiliumError:
        reason = f"The adapter {reference} could not be loaded on {self._executor}: {why}"
        check = self.slots.causes.get(reference) or LOAD
        return ConsiliumError("adapter_refused", reason=reason, check=check)

    def _no_slot(self, ticket: Ticket) -> ConsiliumError:
        book = self.slots
        waited = time.monotonic() - ticket.asked_at
        if ticket.reference in book.fetching:
            reason = f"The adapter {ticket.reference} is still being read from the store after {waited:.1f} s, and that goes on. Try again in a moment."
            return ConsiliumError("no_free_lora_slot", reason=reason, retry_after_s=2.0)
        reason = (
            f"No slot came free for the adapter {ticket.reference} in {waited:.1f} s: {book.places} adapters answer at once on {self._executor}"
            f" and {len({one.reference for one in book.waiting}) + 1} waited. Try again, or raise engine.lora.slots."
        )
        return ConsiliumError(
            "no_free_lora_slot", reason=reason, retry_after_s=book.retry_after_s()
        )

    # Moves that the router asks for

    async def place(self, reference: str, tier: Tier) -> None:
        """Return when an adapter is in memory, or in a slot. Raises as `hold` does."""
        if tier is Tier.SLOT:
            async with self.hold(reference):
                return
        target = await self._known(reference)
        if reference in self.slots.ram:
            return
        self.slots.let_go.discard(reference)
        self.slots.wanted[reference] = time.monotonic() + 60.0
        self.pump()
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.slots.max_wait_s):
                await self._until(
                    lambda: reference in self.slots.ram or self._rests(reference, begun)
                )
        except TimeoutError:
            reason = f"No place came free in the memory of {self._executor} for the adapter {reference}: it holds {self.slots.ram_places}. Raise engine.lora.ram."
            raise ConsiliumError("no_free_lora_slot", reason=reason, retry_after_s=5.0) from None
        if reference not in self.slots.ram:
            raise self._cannot(target.reference, self.slots.reasons[reference])

    async def evict(self, reference: str, *, number: int = 0) -> None:
        """Return when an adapter is neither in a slot nor in memory, and the engine has said so. Waits for the calls that use it.

        Raises ConsiliumError(part_failed) if the engine still says that it holds it.
        """
        # Whoever asks may go away; what was begun in the engine is seen through to its end.
        await asyncio.shield(self._spawn(self._evict(reference, number)))

    async def _evict(self, reference: str, number: int) -> None:
        book = self.slots
        book.wanted.pop(reference, None)
        book.let_go.add(reference)
        number = number or self._numbers.get(reference, 0)
        await self._until(lambda: book.is_idle(reference) and reference not in book.closing)
        book.closing.add(reference)
        try:
            async with self._engine:
                self._take_over(await self._alarmed(self._holder.drop([number])))
        finally:
            book.closing.discard(reference)
            self._forget_gone(reference)
            self.pump()
        if number in self.seen.ram or number in self.seen.slots:
            raise ConsiliumError(
                "part_failed",
                name=reference,
                reason="the engine still holds it after it was dropped",
            )

    async def settle(self, silent_s: float | None = None) -> bool:
        """Return True when no move is under way and none is left to do, or False once no move has ended for so long."""
        began = time.monotonic()
        while self._tasks:
            left = None
            if silent_s is not None:
                left = max(began, self._ended_at) + silent_s - time.monotonic()
                if left <= 0:
                    return False
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self.changed.wait()
        return True

    def missing(self) -> dict[str, str]:
        """Return the pinned adapters that are in no slot yet, each with why its last load failed; "" = it is under way."""
        book = self.slots
        here = book.in_slots
        return {name: book.reasons.get(name, "") for name in book.firm if name not in here}

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            await self.changed.wait()

    # The pump

    def pump(self) -> None:
        """Let in who can be let in, begin the moves that can begin, and look again when time alone changes something."""
        if self._closed:
            return
        now, book = time.monotonic(), self.slots
        for ticket in book.expired(now):
            self._end(ticket, self._no_slot(ticket))
        for ticket in book.admit(now):
            self._end(ticket, None)
        while (load := book.next_load(now)) is not None:
            self._begin(load, now)
        while len(book.fetching) < FETCHES:
            fetch = book.next_fetch(now, names=self._hoped(now))
            if fetch is None:
                break
            self._begin(fetch, now)
        self._look_again(now)
        self._counts.state(
            slots=len(book.in_slots),
            ram=len(book.ram),
            waiting=len(book.waiting),
            evictions=book.evictions,
        )
        self.changed.set()
        self.changed = asyncio.Event()

    def _hoped(self, now: float) -> Iterator[str]:
        """Yield what may be fetched without a call: hints first, then what shall be kept in memory. There may be thousands, of which few are looked at."""
        book, hints = self.slots, self.slots.wanted
        hoped = chain(
            (name for name, until in hints.items() if until > now),
            (name for name in book.kept if hints.get(name, 0.0) <= now),
        )
        return (name for name in hoped if name in self.targets and name not in book.let_go)

    def _rests(self, name: str, now: float) -> bool:
        return self.slots.resting.get(name, 0.0) > now

    def _look_again(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self.slots.next_time(now)
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.001, at - now), self.pump)

    def _end(self, ticket: Ticket, error: ConsiliumError | None) -> None:
        future = self._futures.get(id(ticket))
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _begin(self, move: Load | Fetch, now: float) -> None:
        self.slots.began(move, now)
        self._spawn(self._move(move))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended_at = time.monotonic()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("adapter_move_failed", executor=self._executor, cause=repr(error))
        self.pump()

    async def _move(self, move: Load | Fetch) -> None:
        """Do a move; what fails is dropped and tried once more, because a load that broke off may have left half of itself."""
        began, name = time.monotonic(), move.reference
        tier = Tier.SLOT if isinstance(move, Load) else Tier.RAM
        error: Exception | None = None
        for attempt in range(2):
            try:
                await self._try(move, again=attempt > 0)
                error = None
                break
            except RanksDifferError as alarm:
                self._on_alarm(alarm)
                return
            except Exception as caught:
                error = caught
        if error is not None:
            with suppress(Exception):  # a dead engine is noticed elsewhere
                async with self._engine:
                    seen = await self._alarmed(self._holder.look())
                    self.slots.landed(move)
                    self._take_over(seen)
        self.slots.landed(move)
        self._counts.loaded(tier, time.monotonic() - began, well=error is None)
        if error is None:
            if tier is Tier.SLOT and name in self._new and name in self._here:
                self._new.discard(name)
                self.on_new(self._here[name])
            return
        why = self._why(name, error)
        _log.warning("adapter_load_failed", adapter=name, tier=str(tier), cause=repr(error))
        rests_until, cause = time.monotonic() + REST_S, _passing(error)
        for ticket in self.slots.failed(name, why, rests_until, cause=cause):
            self._end(ticket, self._cannot(name, why))

    async def _alarmed(self, asked: Awaitable[SlotMap]) -> SlotMap:
        """Return what the engine holds. Raises what the holder raises; ranks that differ end this process."""
        try:
            return await asked
        except RanksDifferError as alarm:
            self._on_alarm(alarm)
            raise

    def _why(self, reference: str, error: Exception) -> str:
        """Return what went wrong, for callers: without the folders of this machine."""
        if isinstance(error, ConsiliumError):
            return error.public()
        if isinstance(error, OSError):
            return error.strerror or str(error) or type(error).__name__
        target = self.targets.get(reference)
        told = str(error)
        return told if target is None else told.replace(target.path, reference)

    async def _try(self, move: Load | Fetch, *, again: bool) -> None:
        target = self.targets.get(move.reference)
        if target is None:
            raise ConsiliumError("adapter_unknown", name=move.reference, nearest="")
        if again:
            async with self._engine:
                self._take_over(await self._holder.drop([target.number]))
        if isinstance(move, Fetch) or again:
            async with self.files(target) as target:
                self._here[move.reference] = target
                self._new.add(move.reference)
                await self._holder.read(target)
            victims = move.victims if isinstance(move, Fetch) else ()
            async with self._engine:
                seen = await self._holder.keep(target, [self._numbers[name] for name in victims])
                if isinstance(move, Fetch):
                    self.slots.left(move)
                self._take_over(seen)
            if target.number not in self.seen.ram:
                raise ConsiliumError(
                    "part_failed", name=move.reference, reason="the engine did not keep it"
                )
        if isinstance(move, Load):
            victim = None if move.victim is None else self._numbers[move.victim]
            async with self._engine:
                seen = await self._holder.take(target, victim)
                self.slots.left(move)
                self._take_over(seen)
            if target.number not in self.seen.slots:
                raise ConsiliumError(
                    "part_failed", name=move.reference, reason="no slot holds it after its load"
                )

    def held(self) -> dict[str, list[str]]:
        """Return what the request router needs: references in slots, and in memory, at most STATS_MOST of each."""
        names = self._names
        slots = [names[number] for number in self.seen.slots if number in names]
        ram = [names[number] for number in self.seen.ram if number in names]
        return {STATS_SLOTS: slots[:STATS_MOST], STATS_RAM: sorted(ram)[:STATS_MOST]}

    def _take_over(self, seen: SlotMap) -> None:
        self.seen = seen
        names = self._names
        self.slots.observe(
            [names[number] for number in seen.slots if number in names],
            [names[number] for number in seen.ram if number in names],
            time.monotonic(),
        )


def _passing(error: Exception) -> str:
    """Return the code of what may be over a moment later and says nothing of the adapter, such as a silent disk; "" where the adapter itself is wrong."""
    if isinstance(error, ConsiliumError):
        return "" if error.code == "adapter_refused" else error.code
    return "disk" if isinstance(error, OSError) else ""
