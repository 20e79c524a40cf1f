"""What can this hardware run? The ways to put models on a set of cards: a copy on each, one over all, or a core with executors beside it.

Knows candidates from data/candidates.json and tries them from the largest down. Does not measure quality: a larger model of one generation is taken as better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from consilium.kernel.errors import ConsiliumError
from consilium.planner import models, speed
from consilium.planner.ask import Ask
from consilium.planner.cards import Card
from consilium.planner.figures import constant, table, tokens_in_words
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut, possible_tp
from consilium.planner.speed import Rate
from consilium.planner.verdict import Plan, plan

FORMATS = ("bf16", "fp8", "int4")


@dataclass(frozen=True, slots=True)
class Seat:
    """One model on some cards: how it sits, how many copies, how fast one stream is."""

    plan: Plan
    replicas: int
    rate: Rate | None

    def words(self) -> str:
        """Return the seat in one clause."""
        ask = self.plan.ask
        cards = f"{ask.cut.cards} x {ask.cards[0].name}" if ask.cut.cards > 1 else ask.cards[0].name
        shared = (
            f"sharded over {cards}"
            if ask.cut.cards > 1
            else f"on {'each of ' + str(self.replicas) + ' x ' if self.replicas > 1 else ''}{cards}"
        )
        pace = f", about {self.rate.likely:.0f} tokens/s for one stream" if self.rate else ""
        return f"{ask.shape.name} in {ask.weights} {shared}: {tokens_in_words(self.plan.tokens[1])} tokens of KV{pace}"


@dataclass(frozen=True, slots=True)
class Topology:
    """A way to use all the cards."""

    kind: str
    seats: tuple[Seat, ...]
    good_for: str


@dataclass(frozen=True, slots=True)
class Idle:
    """Cards of one kind that a plan leaves out, and what they could do."""

    card: Card
    count: int
    sentence: str


def idle_cards(
    cards: Sequence[Card], used: Sequence[Card], replicas: int
) -> list[tuple[Card, int]]:
    """Return (card, how many) of each kind that `replicas` engines on the cards `used` leave out, the kind with the most memory first."""
    left = Counter(card.name for card in cards)
    left.subtract(
        {name: count * replicas for name, count in Counter(card.name for card in used).items()}
    )
    return [(group[0], left[group[0].name]) for group in groups(cards) if left[group[0].name] > 0]


def beside(cards: Sequence[Card], used: Sequence[Card], replicas: int, ask: Ask) -> list[Idle]:
    """Return the cards that stay idle and what they could do as executors beside the engine: the same model where it fits, else the largest that does."""
    found = []
    for card, count in idle_cards(cards, used, replicas) if used else ():
        words = f"{count} x {card.name} {'stays' if count == 1 else 'stay'} idle, because cards of unequal kinds are not sharded together"
        if card.name == used[0].name:
            words = f"{count} x {card.name} {'stays' if count == 1 else 'stay'} idle: an engine takes {ask.cut.cards} cards"
        found.append(Idle(card, count, f"{words}. {_use(card, count, ask)}"))
    return found


def _use(card: Card, count: int, ask: Ask) -> str:
    try:
        same = seat(ask.with_(kv_bytes=None, overhead_bytes=None), (card,) * count)
        fits = same.plan.verdict != "no"
    except ConsiliumError:
        fits = False
    one = (
        same
        if fits
        else next(
            (
                found
                for whole in (True, False)
                if (found := largest((card,) * count, ask.context, whole=whole)) is not None
            ),
            None,
        )
    )
    if one is None:
        return "None of the known models fits there with this context."
    return f"As an executor beside it (topology hybrid) it could run {one.words()}. 'consilium plan --gpus' without a model writes such a file."


def groups(cards: Sequence[Card]) -> list[tuple[Card, ...]]:
    """Return the cards grouped by kind, the group with the most memory first. Unequal cards are never sharded together."""
    names: dict[str, list[Card]] = {}
    for card in cards:
        names.setdefault(card.name, []).append(card)
    return sorted(
        (tuple(group) for group in names.values()),
        key=lambda group: -sum(card.total_gib for card in group),
    )


def cuts(shape: Shape, weights: str, count: int) -> list[Cut]:
    """Return the tensor-parallel cuts of up to `count` cards that divide them evenly, smallest first; then, where none uses them all, the widest in stages."""
    found = [Cut(tp) for tp in possible_tp(shape, count, weights) if count % tp == 0]
    widest = found[-1].tp if found else 1
    if widest < count <= shape.layers:
        found.append(Cut(widest, count // widest))
    return found


def seat(ask: Ask, cards: Sequence[Card]) -> Seat:
    """Return the best cut of one kind of card for a question: the smallest that is not refused; else the one nearest to fitting."""
    best: Plan | None = None
    for cut in cuts(ask.shape, ask.weights, len(cards)):
        try:
            answer = plan(ask.with_(cut=cut, cards=tuple(cards[: cut.cards])))
        except ConsiliumError:
            continue
        if answer.verdict != "no":
            return _seated(answer, len(cards))
        if best is None or answer.margin > best.margin:
            best = answer
    return _seated(
        best if best is not None else plan(ask.with_(cut=Cut(), cards=tuple(cards[:1]))), len(cards)
    )


def _seated(answer: Plan, count: int) -> Seat:
    ask = answer.ask
    load = speed.Load(1, min(ask.context, 4096), ask.weights, ask.kv_dtype, eager=ask.eager)
    return Seat(
        answer, max(1, count // ask.cut.cards), speed.decode(ask.shape, ask.cards[0], ask.cut, load)
    )


def largest(cards: Sequence[Card], context: int, *, whole: bool) -> Seat | None:
    """Return the largest candidate that fits with `context` tokens: on one card each (whole False), or with one cut over all of them."""
    for name in table("candidates")["names"]:
        shape = models.by_name(name).shape
        for weights in FORMATS:
            for cut in cuts(shape, weights, len(cards)):
                if (cut.cards == len(cards)) is not whole and len(cards) > 1:
                    continue
                base = Ask(
                    shape=shape,
                    weights=weights,
                    context=min(context, shape.max_positions),
                    sequences=int(constant("consilium_sequences")),
                    utilisation=constant("consilium_utilisation"),
                    cut=cut,
                    cards=tuple(cards[: cut.cards]),
                )
                try:
                    answer = plan(base)
                except ConsiliumError:
                    continue
                if answer.verdict == "fits" and (whole or cut.cards == 1):
                    return _seated(answer, len(cards))
    return None


def suggest(cards: Sequence[Card], context: int = 32_768) -> list[Topology]:
    """Return the ways to use the cards, the most capable single mind first."""
    kinds = groups(cards)
    found: list[Topology] = []
    first = kinds[0]
    if len(first) > 1:
        core = largest(first, context, whole=True)
        if core is not None:
            found.append(
                Topology(
                    "sharded",
                    (core,),
                    "the most capable single mind; one stream is answered by all cards together",
                )
            )
    copies = [
        one for group in kinds if (one := largest(group[:1], context, whole=False)) is not None
    ]
    seats = tuple(
        Seat(one.plan, sum(card.name == one.plan.ask.cards[0].name for card in cards), one.rate)
        for one in copies
    )
    if seats and len(kinds) == 1:
        found.append(
            Topology("replicas", seats, "the most agents at once: every card answers on its own")
        )
    if len(cards) > 1:
        beside_it = _hybrid(kinds, context)
        found = (
            [*beside_it, *found] if len(kinds) > 1 else [*found, *beside_it]
        )  # a core alone leaves the other cards idle
    if not found and seats:
        found.append(Topology("replicas", seats, "every card answers on its own"))
    return found


def _hybrid(kinds: list[tuple[Card, ...]], context: int) -> list[Topology]:
    if len(kinds) > 1:
        core = largest(kinds[0], context, whole=True)
        hands = [
            Seat(one.plan, len(group), one.rate)
            for group in kinds[1:]
            if (one := largest(group[:1], context, whole=False)) is not None
        ]
    else:
        core = largest(kinds[0][:-1], context, whole=True)
        one = largest(kinds[0][-1:], context, whole=False)
        hands = [one] if one is not None else []
    if core is None or not hands:
        return []
    return [
        Topology(
            "hybrid",
            (core, *hands),
            "a core that leads and executors that work beside it; unequal cards stay apart",
        )
    ]
