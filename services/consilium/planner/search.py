"""Searches the nearest change that makes a question fit: one knob first, then two, then the ladder.

A knob is one thing to turn: the KV in fp8, fewer slots, a shorter context. Does not know the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from math import log2
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.planner import kv, weights
from consilium.planner.ask import Ask, checked
from consilium.planner.bill import bills
from consilium.planner.figures import tokens_in_words
from consilium.planner.sharding import Cut, objection, possible_tp
from consilium.planner.verdict import Plan, plan

SHORTEST: Final = 1024
MOST_KNOBS: Final = 4
MOST_CARDS: Final = 8


@dataclass(frozen=True, slots=True)
class Change:
    """One or more turned knobs: what to do in words, the keys with their new values, and the plan that results."""

    words: str
    knobs: tuple[tuple[str, str], ...]
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Step:
    """One knob turned: what to do in words, the key and its new value, the question that results, and how far that is from the one before."""

    words: str
    key: tuple[str, str]
    ask: Ask
    cost: float


@dataclass(frozen=True, slots=True)
class _Knob:
    """One thing that can be turned.

    applies   whether turning it means anything for a question
    furthest  the question with it turned as far as it goes: when that does not fit, no turn of it does
    turn      the smallest turn that fits, or the one that leaves the least for other knobs to do; None where there is none
    cost      the least that a turn of it costs
    """

    name: str
    applies: Callable[[Ask], bool]
    furthest: Callable[[Ask], Ask]
    turn: Callable[[Ask], _Step | None]
    cost: float


def changes(question: Ask, limit: int = 4) -> Iterator[Change]:
    """Yield changes that make the question fit, nearest first, at most `limit`.

    Every set of up to four knobs is tried; a set that contains a working smaller one is left out. What is near is decided by the cost of its
    steps: fp8 KV is cheap, dropping half of the context or doubling the cards is dear.
    """
    ask = checked(question)
    knobs = [knob for knob in _KNOBS if knob.applies(ask)]
    working: list[tuple[float, frozenset[str], Change]] = []
    for size in range(1, MOST_KNOBS + 1):
        for chosen in combinations(knobs, size):
            names = frozenset(knob.name for knob in chosen)
            dear = (
                len(working) >= limit
                and sum(knob.cost for knob in chosen)
                > sorted(cost for cost, _, _ in working)[limit - 1]
            )
            if not dear and not any(done <= names for _, done, _ in working):
                found = _apply(ask, chosen)
                if found is not None:
                    working.append((found[0], names, found[1]))
    for _, _, change in sorted(working, key=lambda entry: entry[0])[:limit]:
        yield change


def _hopeless(ask: Ask, chosen: tuple[_Knob, ...]) -> bool:
    """Whether the question does not fit even with every chosen knob turned as far as it goes: one bill instead of a search."""
    for knob in chosen:
        ask = knob.furthest(ask)
    return not _fits(ask)


def _most_cards(ask: Ask) -> Ask:
    sizes = [tp for tp in possible_tp(ask.shape, MOST_CARDS) if not tp & (tp - 1)]
    if not sizes:
        return ask
    largest = max(ask.cards, key=lambda card: card.total_gib)
    return ask.with_(cut=Cut(max(sizes), ask.cut.pp), cards=(largest,) * (max(sizes) * ask.cut.pp))


def _least(ask: Ask) -> str:
    return min((ask.weights, "int4"), key=lambda name: weights.checkpoint_bytes(ask.shape, name))


def _apply(ask: Ask, chosen: tuple[_Knob, ...]) -> tuple[float, Change] | None:
    if _hopeless(ask, chosen):
        return None
    steps: list[_Step] = []
    try:
        for knob in chosen:
            step = knob.turn(ask)
            if step is None:
                return None
            steps.append(step)
            ask = step.ask
        if not _fits(ask):
            return None
        answer = plan(ask)
    except ConsiliumError:  # a knob turned into a question that has no answer, such as a cut that the format does not allow
        return None
    return sum(step.cost for step in steps), Change(
        " and ".join(step.words for step in steps), tuple(step.key for step in steps), answer
    )


def _takes_fp8_kv(ask: Ask) -> bool:
    old = any(0 < card.compute_capability < 8.0 for card in ask.cards)
    return not (ask.on_cpu or old or kv.element_bytes(kv.dtype_named(ask.kv_dtype)) < 2)


def _fp8_kv(ask: Ask) -> Ask:
    return ask.with_(kv_dtype="fp8")


def _kv_in_fp8(ask: Ask) -> _Step:
    return _Step("keep the KV cache in fp8", ("kv_cache_dtype", "fp8"), _fp8_kv(ask), 1.0)


def _fewer_slots(ask: Ask) -> _Step:
    """Return the largest number of slots that fits, by bisection; one slot when none does, for another knob to help."""
    low, high = 1, ask.lora.slots - 1
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(_with_slots(ask, middle)):
            low = middle
        else:
            high = middle - 1
    words = f"take {low} LoRA slot{'s' if low > 1 else ''} instead of {ask.lora.slots}"
    return _Step(
        words, ("max_loras", str(low)), _with_slots(ask, low), 1.0 + log2(ask.lora.slots / low)
    )


def _with_slots(ask: Ask, slots: int) -> Ask:
    return ask.with_(lora=replace(ask.lora, slots=slots))


def _on_attention(ask: Ask) -> Ask:
    return ask.with_(lora=replace(ask.lora, targets=("attention",)))


def _attention_only(ask: Ask) -> _Step:
    return _Step(
        "serve adapters on attention only",
        ("lora_target_modules", "attention"),
        _on_attention(ask),
        1.5,
    )


def _smaller_batch(ask: Ask) -> _Step | None:
    batch = ask.batch
    for sequences, tokens in ((64, 2048), (16, 2048), (4, 1024)):
        trial = ask.with_(
            sequences=max(min(sequences, batch.sequences), min(ask.requests, batch.sequences)),
            batched_tokens=min(tokens, batch.tokens),
        )
        if trial.batch != batch and _fits(trial):
            return _Step(
                f"run {trial.batch.sequences} sequences and {trial.batch.tokens} tokens per step at most",
                (
                    "max_num_seqs",
                    f"{trial.batch.sequences}, max_num_batched_tokens {trial.batch.tokens}",
                ),
                trial,
                1.25,
            )
    return None


def _fewer_requests(ask: Ask) -> _Step | None:
    for requests in _descending(ask.requests):
        trial = ask.with_(requests=requests)
        if _fits(trial):
            return _Step(
                f"hold {requests} requests of that length at once instead of {ask.requests}",
                ("requests", str(requests)),
                trial,
                1.0 + log2(ask.requests / requests),
            )
    return None


def _descending(count: int) -> list[int]:
    found, value = [], count
    while value > 1:
        value = value // 2 if value > 8 else value - 1
        found.append(value)
    return found


def _smaller_weights(ask: Ask) -> _Step | None:
    current = weights.checkpoint_bytes(ask.shape, weights.format_named(ask.weights))
    capable = [card.compute_capability for card in ask.cards if card.compute_capability]
    order = ["fp8", "int4"] if not ask.on_cpu and min(capable, default=9.0) >= 8.0 else ["int4"]
    best: _Step | None = None
    for name in order:
        if weights.checkpoint_bytes(ask.shape, name) >= current:
            continue
        words = (
            "load the weights in fp8 (vLLM converts a bf16 checkpoint)"
            if name == "fp8"
            else "take a 4-bit checkpoint of the model (AWQ or GPTQ)"
        )
        smaller = _in_format(ask, name)
        if smaller.cut != ask.cut:
            words += f" and cut it into tensor parallel {smaller.cut.tp} x pipeline parallel {smaller.cut.pp}"
        best = _Step(
            words,
            ("quantization", "fp8" if name == "fp8" else "awq"),
            smaller,
            2.0 if name == "fp8" else 2.5,
        )
        if _fits(best.ask):
            return best
    return best


def _in_format(ask: Ask, weights_format: str) -> Ask:
    """Return the question with other weights; where their groups do not allow the cut, with the widest cut of the same cards that they do allow."""
    smaller = ask.with_(weights=weights_format, weights_bytes=None)
    if ask.on_cpu or objection(ask.shape, ask.cut, weights_format) is None:
        return smaller
    for tp in reversed(possible_tp(ask.shape, ask.cut.cards, weights_format)):
        cut = Cut(tp, ask.cut.cards // tp)
        if ask.cut.cards % tp == 0 and objection(ask.shape, cut, weights_format) is None:
            return smaller.with_(cut=cut)
    return smaller


def _shorter(ask: Ask) -> _Step | None:
    longest = longest_context(ask)
    if longest is None or longest >= ask.context:
        return None
    return _Step(
        f"shorten the context to {tokens_in_words(longest)} tokens",
        ("max_model_len", str(longest)),
        ask.with_(context=longest),
        2.0 + log2(ask.context / longest),
    )


def longest_context(ask: Ask) -> int | None:
    """Return the longest context, in steps of 1,024 tokens, that still is not refused; None below 1,024. A binary search over plans."""
    ask = checked(ask)
    low, high = SHORTEST // 1024, max(ask.context // 1024, 1)
    if not _fits(ask.with_(context=SHORTEST)):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if _fits(ask.with_(context=middle * 1024)):
            low = middle
        else:
            high = middle - 1
    return low * 1024


def _more_cards(ask: Ask) -> _Step | None:
    largest = max(ask.cards, key=lambda card: card.total_gib)
    for tp in possible_tp(ask.shape, MOST_CARDS, ask.weights):
        if tp * ask.cut.pp <= ask.cut.cards or tp & (tp - 1):
            continue
        trial = ask.with_(
            cut=Cut(tp, ask.cut.pp, 1, expert_parallel=False), cards=(largest,) * (tp * ask.cut.pp)
        )
        if _fits(trial):
            return _Step(
                f"take {tp * ask.cut.pp} cards of the kind {largest.name} with tensor parallel {tp}",
                ("tensor_parallel", str(tp)),
                trial,
                4.0 + 2.0 * log2(tp * ask.cut.pp / ask.cut.cards),
            )
    return None


def _fits(ask: Ask) -> bool:
    try:
        if ask.kv_bytes is not None or ask.on_cpu:
            return plan(ask).verdict != "no"
        return all(bill.kv[1] >= bill.kv_needed for bill in bills(ask))
    except ConsiliumError:
        return False


_KNOBS: Final = (
    _Knob("kv type", _takes_fp8_kv, _fp8_kv, _kv_in_fp8, 1.0),
    _Knob(
        "adapter targets",
        lambda ask: bool(ask.lora.slots) and ask.lora.targets != ("attention",),
        _on_attention,
        _attention_only,
        1.5,
    ),
    _Knob(
        "weights",
        lambda _ask: True,
        lambda ask: _in_format(ask, _least(ask)),
        _smaller_weights,
        2.0,
    ),
    _Knob(
        "batch",
        lambda _ask: True,
        lambda ask: ask.with_(sequences=1, batched_tokens=min(1024, ask.batch.tokens)),
        _smaller_batch,
        1.25,
    ),
    _Knob(
        "adapters",
        lambda ask: ask.lora.slots > 1,
        lambda ask: _with_slots(ask, min(1, ask.lora.slots)),
        _fewer_slots,
        1.0,
    ),
    _Knob(
        "requests",
        lambda ask: ask.requests > 1,
        lambda ask: ask.with_(requests=1),
        _fewer_requests,
        1.0,
    ),
    _Knob(
        "context",
        lambda _ask: True,
        lambda ask: ask.with_(context=min(SHORTEST, ask.context)),
        _shorter,
        2.0,
    ),
    _Knob("cards", lambda ask: not ask.on_cpu, _most_cards, _more_cards, 6.0),
)
"""In the order in which they are turned when several are."""
