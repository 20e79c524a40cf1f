"""Which replica answers: the one that already holds the beginning of the prompt, or the adapter that is asked for, unless it is busier than that is worth.

Pure and small, because it runs for every request. Loads and names in, a decision with its reason out. Does not know Ray.

    score(replica) = load(replica) - slack, if it holds the prefix
                                   - slot_worth, if it has the adapter in a slot; - ram_worth, if it has it in memory        the lowest score wins

So a holder is never chosen when it has more requests than the least loaded replica by more than all that it holds is worth.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

Reason = Literal["only", "prefix", "adapter", "load"]
Tier = Literal["slot", "ram"]

# What a replica reports in record_routing_stats: {"ongoing": requests in it now, from all callers, "at": Unix seconds}. `at` tells a new report
# from an old one that is sent again.
STATS_ONGOING: Final = "ongoing"
STATS_SLOTS: Final = "slots"
STATS_RAM: Final = "ram"
"""References of the adapters that a replica has in slots, and in memory."""
STATS_MOST: Final = 128
"""References that a replica reports of each tier."""
_KEPT_S: Final = 5.0
_FRESH_S: Final = 1.0
_PROMISE_S: Final = 1.0
_SPELL_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Rules:
    """Weights of the decision.

    slack    requests by which a replica that holds the prefix may be busier than the least loaded one
    slot_worth, ram_worth  the same for one that has the adapter in a slot, or in memory
    keys     prefixes remembered
    holders  replicas remembered per prefix, the latest first
    """

    slack: float = 8.0
    slot_worth: float = 8.0
    ram_worth: float = 3.0
    keys: int = 4096
    holders: int = 8


@dataclass(frozen=True, slots=True)
class Decision:
    """What was chosen and why.

    order   all replicas, best first; the others stand in when the first is full
    load    requests in the chosen one; least is that of the least loaded
    tier    where the chosen one has the adapter, in words
    """

    order: tuple[str, ...]
    reason: Reason
    load: float
    least: float
    holds: int
    tier: str = ""

    @property
    def replica(self) -> str:
        """Return the chosen replica."""
        return self.order[0]

    def why(self) -> str:
        """Return the decision as a sentence."""
        if self.reason == "only":
            return "the only replica"
        here = (
            f"{self.load:g} requests here, {self.least:g} in the least loaded of {len(self.order)}"
        )
        if self.reason == "adapter":
            return f"has the adapter {self.tier}; {here}"
        if self.reason == "prefix":
            return f"holds the beginning of the prompt; {here}"
        if self.holds:
            return f"least loaded; those that hold the beginning of the prompt are too busy; {here}"
        return f"least loaded; {here}"


def decide(
    loads: Mapping[str, float],
    holders: Collection[str],
    rules: Rules,
    turn: int = 0,
    tiers: Mapping[str, Tier] = MappingProxyType({}),
) -> Decision:
    """Return the decision for one request.

    loads    replica -> requests in it now; not empty
    holders  replicas that hold the beginning of the prompt
    turn     a counter: equal replicas take turns
    tiers    replica -> where it has the adapter that is asked for
    """
    names = list(loads)
    if len(names) == 1:
        load = loads[names[0]]
        return Decision((names[0],), "only", load, load, len(holders))
    shift = turn % len(names)
    names = names[shift:] + names[:shift]
    slack = rules.slack
    worth = {"slot": rules.slot_worth, "ram": rules.ram_worth}
    # Equal scores: a holder first, so that equal prefixes stay together.
    scored = sorted(
        (loads[name] - slack, 0, i) if name in holders else (loads[name], 1, i)
        for i, name in enumerate(names)
    )
    if tiers:
        scored = sorted(
            (score - worth[tiers[names[i]]] if names[i] in tiers else score, second, i)
            for score, second, i in scored
        )
    order = tuple(names[i] for _, _, i in scored)
    chosen = order[0]
    held = sum(1 for name in names if name in holders)
    reason: Reason = "prefix" if chosen in holders else "adapter" if chosen in tiers else "load"
    where = {"slot": "in a slot", "ram": "in memory"}.get(tiers.get(chosen, ""), "")
    return Decision(order, reason, loads[chosen], min(loads.values()), held, where)


class PrefixTable:
    """Which replicas saw a prefix lately: a bounded table, least recently used out first."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._rows: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def holders(self, key: str) -> tuple[str, ...]:
        """Return the replicas that saw this prefix, the latest first."""
        return self._rows.get(key, ())

    def saw(self, key: str, replica: str) -> None:
        """Remember that the replica computes this prefix now. An empty key is nobody's prefix."""
        if not key:
            return
        known = self._rows.get(key, ())
        if known[:1] != (replica,):
            self._rows[key] = (replica, *(name for name in known if name != replica))[
                : self._rules.holders
            ]
        self._rows.move_to_end(key)
        if len(self._rows) > self._rules.keys:
            self._rows.popitem(last=False)

    def keep_only(self, alive: Collection[str]) -> None:
        """Forget replicas that are gone."""
        for key, known in list(self._rows.items()):
            left = tuple(name for name in known if name in alive)
            if not left:
                del self._rows[key]
            elif left != known:
                self._rows[key] = left


@dataclass(slots=True)
class _Row:
    own: int = 0
    peak: int = 0  # highest `own` in this spell, and in the one before
    peak_before: int = 0
    spell_s: float = float("-inf")
    others: float = 0.0
    known_s: float = float("-inf")
    promised: dict[str, float] = field(default_factory=dict)  # request -> when; the oldest first


class LoadTable:
    """Requests in each replica now: our own, counted, and those of other callers, as far as the replica told us.

    A replica tells in two ways. When it takes a request it says at once how many it has (`told`). Once a second it reports to the controller,
    and that arrives late (`heard`): what we had in flight meanwhile is taken off generously, so that our own finished requests never look
    like somebody else's.
    """

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}
        self._promised_to: dict[str, str] = {}

    def promised(self, request: str, replica: str, now_s: float) -> None:
        """Count a request that was decided and is not sent yet, so that a burst does not see every replica empty. A later decision replaces it."""
        self._break_promise(request)
        self._rows.setdefault(replica, _Row()).promised[request] = now_s
        self._promised_to[request] = replica

    def sent(self, replica: str, now_s: float) -> None:
        """Count one request to the replica; the oldest promise to it is kept with that."""
        row = self._rows.setdefault(replica, _Row())
        if row.promised:
            self._break_promise(next(iter(row.promised)))
        _turn_spell(row, now_s)
        row.own += 1
        row.peak = max(row.peak, row.own)

    def done(self, replica: str) -> None:
        """Count one request less."""
        row = self._rows.get(replica)
        if row is not None and row.own > 0:
            row.own -= 1

    def told(self, replica: str, total: float, now_s: float) -> None:
        """Take the replica's count of this moment: `total` requests in it, from all callers."""
        row = self._rows.setdefault(replica, _Row())
        row.others = max(0.0, total - row.own)
        row.known_s = now_s

    def heard(self, replica: str, total: float, now_s: float) -> None:
        """Take a count that may be some seconds old; a count of this moment within the last second is better."""
        row = self._rows.setdefault(replica, _Row())
        if now_s - row.known_s < _FRESH_S:
            return
        _turn_spell(row, now_s)
        row.others = max(0.0, total - max(row.own, row.peak, row.peak_before))
        row.known_s = now_s

    def loads(self, replicas: Sequence[str], now_s: float) -> dict[str, float]:
        """Return the requests in each of these replicas. What was said more than 5 s ago no longer counts."""
        oldest = now_s - _KEPT_S
        found: dict[str, float] = {}
        for name in replicas:
            row = self._rows.get(name)
            if row is None:
                found[name] = 0.0
            else:
                while (
                    row.promised
                    and (first := next(iter(row.promised)))
                    and row.promised[first] < now_s - _PROMISE_S
                ):
                    self._break_promise(first)  # its caller went away before it was sent
                found[name] = (
                    row.own + len(row.promised) + (row.others if row.known_s >= oldest else 0.0)
                )
        return found

    def keep_only(self, alive: Collection[str]) -> None:
        """Forget replicas that are gone."""
        for name in [name for name in self._rows if name not in alive]:
            for request in self._rows.pop(name).promised:
                del self._promised_to[request]

    def _break_promise(self, request: str) -> None:
        replica = self._promised_to.pop(request, None)
        if replica is not None:
            del self._rows[replica].promised[request]


def _turn_spell(row: _Row, now_s: float) -> None:
    if now_s - row.spell_s < _SPELL_S:
        return
    row.peak_before = row.peak if now_s - row.spell_s < 2 * _SPELL_S else row.own
    row.peak, row.spell_s = row.own, now_s
