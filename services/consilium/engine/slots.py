"""Which adapter has a slot, who waits for one, and what is to be loaded next.

    ask -> (waiting) -> held -> release            a call and its ticket
    next_load, next_fetch -> began -> landed       a move and its end

At most as many different adapters are in flight as there are slots: beyond that vLLM would pass over requests at every step, for ever. Calls of one adapter are let
in together. An adapter whose caller has waited for `yield_s` gets the next slot: an adapter in use takes no further calls, and leaves once its last call has ended.
Pinned adapters never leave, and at least one slot is never pinned. Pure: the time comes from outside. Does not know engines, files or tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any, Final

YIELD_S: Final = 1.0
"""Seconds that a call waits before an adapter in use has to leave for its own."""
HALF_S: Final = 600.0
"""Seconds after which a use counts half when it is asked who has to leave."""
LEAST_RETRY_S: Final = 1.0
MOST_RETRY_S: Final = 30.0


class Tier(StrEnum):
    """Where an adapter is found."""

    SLOT = "slot"
    RAM = "ram"
    SSD = "ssd"


@dataclass(frozen=True, slots=True)
class SlotMap:
    """What an engine holds, as it says itself.

    slots  adapter number in each slot, or None
    ram    adapters in memory, those in slots included
    """

    slots: tuple[int | None, ...]
    ram: frozenset[int]


@dataclass(eq=False, slots=True)
class Ticket:
    """One call that wants an adapter. `found` is where the adapter was when it asked."""

    reference: str
    asked_at: float
    gives_up_at: float
    found: Tier
    held: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Bring an adapter into a slot. `victim` has to leave its slot first; None = a slot is free."""

    reference: str
    victim: str | None


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring an adapter into memory. `victims` have to leave memory first."""

    reference: str
    victims: tuple[str, ...] = ()


@dataclass(slots=True)
class _Slot:
    since: float
    loading: bool = False
    leaving: bool = False


@dataclass(slots=True)
class Figures:
    """What happened with one adapter since it was last asked for."""

    slot: int = 0
    ram: int = 0
    ssd: int = 0
    failure: str = ""


@dataclass(slots=True)
class Slots:
    """The book of one engine.

    places, ram_places  slots, and adapters that fit into memory
    pinned              adapters that shall never leave their slots, the first ones first
    kept                adapters that shall stay in memory while there is room
    wanted              adapters that are likely asked for soon -> until when
    figures             what happened since they were last taken
    reasons             why the last load of an adapter failed
    causes              adapters whose last load says nothing against them -> code of what it failed with
    resting             adapters that could not be loaded -> until when they are not tried again
    let_go              adapters that somebody took out: they come back when a call asks for them, whatever their placement
    closing             adapters that are being taken out: nobody is let in
    """

    places: int
    ram_places: int
    max_wait_s: float = 10.0
    yield_s: float = YIELD_S
    pinned: tuple[str, ...] = ()
    kept: set[str] = field(default_factory=set)
    wanted: dict[str, float] = field(default_factory=dict)
    in_use: dict[str, int] = field(default_factory=dict)
    waiting: list[Ticket] = field(default_factory=list)
    last_used: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Figures] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    causes: dict[str, str] = field(default_factory=dict)
    ram: set[str] = field(default_factory=set)
    fetching: set[str] = field(default_factory=set)
    evictions: int = 0
    resting: dict[str, float] = field(default_factory=dict)
    let_go: set[str] = field(default_factory=set)
    closing: set[str] = field(default_factory=set)
    _from_slots: set[str] = field(default_factory=set)
    _from_ram: set[str] = field(default_factory=set)
    _from_both: set[str] = field(default_factory=set)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _uses: dict[str, tuple[float, float]] = field(default_factory=dict)
    _turn_s: float = 1.0
    _sizes: dict[str, int] = field(default_factory=dict)
    _pinned: dict[str, int] = field(default_factory=dict)
    _known: dict[str, int] = field(default_factory=dict)
    _next: int = 0

    # What is where

    @property
    def in_slots(self) -> frozenset[str]:
        """Return the adapters whose slots are filled."""
        return frozenset(name for name, slot in self._slots.items() if not slot.loading)

    @property
    def firm(self) -> tuple[str, ...]:
        """Return the pinned adapters that can be kept: one slot is always left for the others."""
        return tuple(name for name in self.pinned if name not in self.let_go)[: self.places - 1]

    def tier(self, reference: str) -> Tier:
        """Return where an adapter is."""
        slot = self._slots.get(reference)
        if slot is not None and not slot.loading:
            return Tier.SLOT
        return Tier.RAM if reference in self.ram else Tier.SSD

    def observe(self, slots: Iterable[str], ram: Iterable[str], now: float) -> None:
        """Take over what the engine says that it holds. Moves under way keep their reservation."""
        held = set(slots) - self._from_slots - self._from_ram
        self.ram = set(ram) - self._from_ram
        for name in [name for name, slot in self._slots.items() if not slot.loading]:
            if name not in held:
                del self._slots[name]
        for name in held:
            slot = self._slots.setdefault(name, _Slot(now))
            if slot.loading:
                slot.loading, slot.since = False, now

    # What is told of adapters, one at a time: there may be thousands

    def tell(self, reference: str, *, placement: str, size_bytes: int) -> None:
        """Take over where an adapter shall be kept, and what it costs to bring it back. Those that came first are pinned first."""
        if reference not in self._known:
            self._next += 1
            self._known[reference] = self._next
        self._sizes[reference] = size_bytes
        self._pin(reference, self._known[reference] if placement == "vram" else None)
        if placement == "ssd":
            self.kept.discard(reference)
        else:
            self.kept.add(reference)

    def forget(self, reference: str) -> None:
        """Keep an adapter nowhere any more, and nothing that is known of it: sums come and go without end."""
        self._pin(reference, None)
        for names in (self.kept, self.let_go):
            names.discard(reference)
        books: tuple[dict[str, Any], ...] = (
            self._sizes, self._known, self._uses, self.last_used,
            self.wanted, self.resting, self.reasons, self.causes,
        )  # fmt: skip
        for book in books:
            book.pop(reference, None)

    def _pin(self, reference: str, place: int | None) -> None:
        if self._pinned.get(reference) == place:
            return
        if place is None:
            del self._pinned[reference]
        else:
            self._pinned[reference] = place
        self.pinned = tuple(sorted(self._pinned, key=self._pinned.__getitem__))

    # Calls

    def ask(self, reference: str, now: float, *, gives_up_at: float | None = None) -> Ticket:
        """Return the ticket of a call. It is held once `admit` returns it."""
        latest = now + self.max_wait_s
        until = latest if gives_up_at is None else min(latest, gives_up_at)
        ticket = Ticket(reference, now, until, self.tier(reference))
        self.waiting.append(ticket)
        self.let_go.discard(reference)
        return ticket

    def admit(self, now: float) -> list[Ticket]:
        """Return the tickets that are held from now on, the oldest first."""
        self._make_leave(now)
        let_in, waiting = [], []
        for ticket in self.waiting:
            slot = self._slots.get(ticket.reference)
            shut = slot is None or slot.loading or slot.leaving
            if shut or ticket.reference in self.closing:
                waiting.append(ticket)
                continue
            ticket.held = True
            self.in_use[ticket.reference] = self.in_use.get(ticket.reference, 0) + 1
            self.last_used[ticket.reference] = now
            self._uses[ticket.reference] = self._use(ticket.reference, now) + 1.0, now
            figures = self.figures.setdefault(ticket.reference, Figures())
            setattr(figures, ticket.found, getattr(figures, ticket.found) + 1)
            let_in.append(ticket)
        self.waiting = waiting
        return let_in

    def release(self, ticket: Ticket, now: float, *, turn_s: float = 0.0) -> None:
        """End a call, or take one that still waits out of the queue."""
        if not ticket.held:
            self.waiting = [other for other in self.waiting if other is not ticket]
            return
        ticket.held = False
        if ticket.reference in self.last_used:  # else it was forgotten meanwhile
            self.last_used[ticket.reference] = now
        self._turn_s += (turn_s - self._turn_s) / 8
        left = self.in_use[ticket.reference] - 1
        if left:
            self.in_use[ticket.reference] = left
        else:
            del self.in_use[ticket.reference]

    def expired(self, now: float) -> list[Ticket]:
        """Return the tickets that have waited too long, and forget them."""
        late = [ticket for ticket in self.waiting if ticket.gives_up_at <= now]
        if late:
            self.waiting = [ticket for ticket in self.waiting if ticket.gives_up_at > now]
        return late

    def next_time(self, now: float) -> float | None:
        """Return when something changes by itself: a caller gives up, or an adapter has to leave for one; None = nobody waits."""
        times = {ticket.gives_up_at for ticket in self.waiting}
        times |= {ticket.asked_at + self.yield_s for ticket in self.waiting}
        firm = self.firm
        times |= {at for name, at in self.resting.items() if name in firm or name in self.kept}
        return min((time for time in times if time > now), default=None)

    def retry_after_s(self) -> float:
        """Return about how long it takes until those who wait now have had their slot."""
        rounds = -(-len(set(self._waiting_names())) // max(1, self.places - len(self.firm)))
        return round(min(MOST_RETRY_S, max(LEAST_RETRY_S, rounds * self._turn_s)), 1)

    # Moves

    def next_load(self, now: float) -> Load | None:
        """Return the next adapter that is in memory and gets a slot now, or None: nothing waits, or nothing can leave."""
        for name in self._slot_wishes(now):
            if name not in self.ram or name in self._slots or name in self.fetching:
                continue
            if len(self._slots) + len(self._from_both) < self.places:
                return Load(name, None)
            waited = frozenset(self._waiting_names())
            idle = [other for other in self._slots if self._may_leave(other, waited)]
            if idle:
                return Load(name, min(idle, key=lambda other: self._worth(other, now)))
            return None
        return None

    def next_fetch(self, now: float, *, names: Iterable[str] = ()) -> Fetch | None:
        """Return the next adapter to bring into memory, or None. Those that are waited for come first.

        names  further adapters that may be fetched where there is room beside those in use: hints, and what is kept in memory
        """
        asked = ((name, True) for name in (*self._waiting_names(), *self.firm))
        for name, is_asked in chain(asked, ((name, False) for name in names)):
            there = name in self.ram or name in self.fetching or name in self._slots
            if there or not self._may_come(name, now):
                continue
            room = self.ram_places - len(self.ram | self.fetching | self._slots.keys())
            if room > 0:
                return Fetch(name)
            spare = sorted(
                self._spare(is_asked=is_asked, now=now),
                key=lambda other: (other in self._slots, *self._worth(other, now)),
            )
            if len(spare) > -room:
                return Fetch(name, tuple(spare[: 1 - room]))
            return None  # who waits longest is fetched first, and no hint has room where another one has none
        return None

    def began(self, move: Load | Fetch, now: float) -> None:
        """Reserve what a move needs."""
        if isinstance(move, Fetch):
            self.fetching.add(move.reference)
            self.ram -= set(move.victims)
            self._from_ram |= set(move.victims)
            for victim in self._slots.keys() & set(move.victims):
                del self._slots[victim]
                self._from_both.add(victim)
                self.evictions += 1
            return
        if move.victim is not None:
            del self._slots[move.victim]
            self._from_slots.add(move.victim)
            self.evictions += 1
        self._slots[move.reference] = _Slot(now, loading=True)

    def left(self, move: Load | Fetch) -> None:
        """Note that the engine has let the victims of a move go, or kept them: `observe` says which."""
        if isinstance(move, Fetch):
            self._from_ram -= set(move.victims)
            self._from_both -= set(move.victims)
        elif move.victim is not None:
            self._from_slots.discard(move.victim)

    def landed(self, move: Load | Fetch) -> None:
        """End a move; `observe` says what came of it."""
        self.left(move)
        if isinstance(move, Fetch):
            self.fetching.discard(move.reference)
            return
        slot = self._slots.get(move.reference)
        if slot is not None and slot.loading:
            del self._slots[move.reference]

    def failed(
        self, reference: str, why: str, rests_until: float, *, cause: str = ""
    ) -> list[Ticket]:
        """Return the tickets that wait for an adapter that cannot be loaded, and forget them.

        cause  code of what it failed with, where that says nothing against the adapter
        """
        self.resting[reference], self.reasons[reference] = rests_until, why
        self.causes[reference] = cause
        self.figures.setdefault(reference, Figures()).failure = why
        gone = [ticket for ticket in self.waiting if ticket.reference == reference]
        self.waiting = [ticket for ticket in self.waiting if ticket.reference != reference]
        return gone

    def take_figures(self) -> dict[str, Figures]:
        """Return what happened since this was last asked, and begin anew."""
        taken, self.figures = self.figures, {}
        return taken

    def give_back(self, taken: Mapping[str, Figures]) -> None:
        """Count again what could not be told."""
        for name, old in taken.items():
            new = self.figures.setdefault(name, Figures())
            new.slot, new.ram, new.ssd = new.slot + old.slot, new.ram + old.ram, new.ssd + old.ssd
            new.failure = new.failure or old.failure

    def is_idle(self, reference: str) -> bool:
        """Say whether nobody uses an adapter, waits for it or moves it."""
        slot = self._slots.get(reference)
        moving = reference in self.fetching or (slot is not None and slot.loading)
        return not (moving or reference in self.in_use or reference in set(self._waiting_names()))

    # Rules

    def _waiting_names(self) -> Iterator[str]:
        """Yield the adapters that are waited for, by the age of their oldest call."""
        return iter(dict.fromkeys(ticket.reference for ticket in self.waiting))

    def _slot_wishes(self, now: float) -> Iterator[str]:
        for name in (*self.firm, *self._waiting_names()):
            if self._may_come(name, now):
                yield name

    def _may_come(self, name: str, now: float) -> bool:
        """Say whether a move may begin for an adapter: it is not on its way out, and its last load did not just fail."""
        leaving = self.closing | self._from_slots | self._from_ram
        return name not in leaving and self.resting.get(name, 0.0) <= now

    def _may_leave(self, name: str, waited: Collection[str]) -> bool:
        """Say whether an adapter may leave its slot now. `waited` are those that calls wait for."""
        slot = self._slots[name]
        if slot.loading or name in self.in_use or name in self.firm:
            return False
        return slot.leaving or name not in waited

    def _spare(self, *, is_asked: bool, now: float) -> Iterator[str]:
        """Yield the adapters that may leave memory: nobody uses them or waits for them.

        A call may push one out of its slot as well, where there is no more memory than slots; a mere hint does not push out what is kept or hoped for.
        """
        waited, firm = frozenset(self._waiting_names()), frozenset(self.firm)
        stays = self._from_slots | self.in_use.keys() | firm | waited
        for name in self.ram:
            if name in self._slots:
                if is_asked and self._may_leave(name, waited):
                    yield name
            elif name not in stays and (
                is_asked or not (name in self.kept or self.wanted.get(name, 0.0) > now)
            ):
                yield name

    def _worth(self, name: str, now: float) -> tuple[bool, bool, float]:
        """Return what is lost with an adapter: least first. Hoped for beats kept beats used often and lately; a large one costs more to bring back."""
        reload = 1.0 + self._sizes.get(name, 0) / 2**28
        return self.wanted.get(name, 0.0) > now, name in self.kept, self._use(name, now) * reload

    def _use(self, name: str, now: float) -> float:
        """Return how often an adapter was asked for, where a use counts the less the longer ago it was."""
        uses, at = self._uses.get(name, (0.0, now))
        return float(uses * 0.5 ** ((now - at) / HALF_S))

    def _make_leave(self, now: float) -> None:
        """Let as many adapters in use leave as callers have waited for too long, the longest in its slot first."""
        late = (one.reference for one in self.waiting if now - one.asked_at >= self.yield_s)
        starved = [name for name in dict.fromkeys(late) if name not in self._slots]
        if not starved:
            for slot in self._slots.values():
                slot.leaving = False
            return
        coming, waited = self.places - len(self._slots), frozenset(self._waiting_names())
        coming += sum(
            slot.loading or slot.leaving or self._may_leave(name, waited)
            for name, slot in self._slots.items()
        )
        busy = [
            name
            for name, slot in self._slots.items()
            if name in self.in_use and not slot.leaving and name not in self.firm
        ]
        busy.sort(key=lambda name: self._slots[name].since)
        for name in busy[: max(0, len(starved) - coming)]:
            self._slots[name].leaving = True
