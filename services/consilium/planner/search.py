"""Searches the nearest change that makes a question fit: one knob first, then two, then the ladder.

Order of knobs: KV in fp8, fewer slots, attention-only LoRA, smaller batch, 4-bit weights, shorter context, more cards. Does not know the machine.
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
    words: str
    knob: tuple[str, str]
    ask: Ask
    cost: float


def nearest_change(ask: Ask) -> Change | None:
    """Return the change nearest to the question that fits (or is tight), or None when nothing helps."""
    return next(changes(ask, limit=1), None)


def changes(question: Ask, limit: int = 4) -> Iterator[Change]:
    """Yield changes that make the question fit, nearest first, at most `limit`.

    Every set of up to four knobs is tried; a set that contains a working smaller one is left out. What is near is decided by the cost of its
    steps: fp8 KV is cheap, dropping half of the context or doubling the cards is dear.
    """
    ask = checked(question)
    working: list[tuple[float, frozenset[int], Change]] = []
    for size in range(1, MOST_KNOBS + 1):
        for chosen in combinations(range(len(_KINDS)), size):
            dear = (
                len(working) >= limit
                and sum(_LEAST_COST[index] for index in chosen)
                > sorted(cost for cost, _, _ in working)[limit - 1]
            )
            if not dear and not any(done <= set(chosen) for _, done, _ in working):
                found = _apply(ask, chosen)
                if found is not None:
                    working.append((found[0], frozenset(chosen), found[1]))
    for _, _, change in sorted(working, key=lambda entry: entry[0])[:limit]:
        yield change


def _hopeless(ask: Ask, chosen: tuple[int, ...]) -> bool:
    """Whether even the strongest turn of every chosen knob does not fit: one bill instead of a search."""
    for index in chosen:
        kind = _KINDS[index]
        if kind is _kv_dtype:
            ask = ask.with_(kv_dtype="fp8")
        elif kind is _fewer_slots:
            ask = _with_slots(ask, min(1, ask.lora.slots))
        elif kind is _attention_only:
            ask = ask.with_(lora=replace(ask.lora, targets=("attention",)))
        elif kind is _smaller_batch:
            ask = ask.with_(sequences=1, batched_tokens=min(1024, ask.batch.tokens))
        elif kind is _fewer_requests:
            ask = ask.with_(requests=1)
        elif kind is _smaller_weights:
            ask = _in_format(ask, _least(ask))
        elif kind is _more_cards:
            ask = _most_cards(ask)
        else:
            ask = ask.with_(context=min(SHORTEST, ask.context))
    return not _fits(ask)


def _most_cards(ask: Ask) -> Ask:
    sizes = [tp for tp in possible_tp(ask.shape, MOST_CARDS) if not tp & (tp - 1)]
    if ask.on_cpu or not sizes:
        return ask
    largest = max(ask.cards, key=lambda card: card.total_gib)
    return ask.with_(cut=Cut(max(sizes), ask.cut.pp), cards=(largest,) * (max(sizes) * ask.cut.pp))


def _least(ask: Ask) -> str:
    return min((ask.weights, "int4"), key=lambda name: weights.checkpoint_bytes(ask.shape, name))


def _apply(ask: Ask, chosen: tuple[int, ...]) -> tuple[float, Change] | None:
    if _hopeless(ask, chosen):
        return None
    steps: list[_Step] = []
    try:
        for index in chosen:
            step = _KINDS[index](ask)
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
        " and ".join(step.words for step in steps), tuple(step.knob for step in steps), answer
    )


def _kv_dtype(ask: Ask) -> _Step | None:
    old = [card for card in ask.cards if 0 < card.compute_capability < 8.0]
    if ask.on_cpu or kv.element_bytes(kv.dtype_named(ask.kv_dtype)) < 2 or old:
        return None
    return _Step(
        "keep the KV cache in fp8", ("kv_cache_dtype", "fp8"), ask.with_(kv_dtype="fp8"), 1.0
    )


def _fewer_slots(ask: Ask) -> _Step | None:
    """Return the largest number of slots that fits, by bisection; one slot when none does, for another knob to help."""
    if ask.lora.slots < 2:
        return None
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


def _attention_only(ask: Ask) -> _Step | None:
    if not ask.lora.slots or ask.lora.targets == ("attention",):
        return None
    return _Step(
        "serve adapters on attention only",
        ("lora_target_modules", "attention"),
        ask.with_(lora=replace(ask.lora, targets=("attention",))),
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
    if ask.requests == 1:
        return None
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
    if ask.on_cpu or not ask.cards:
        return None
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


_KINDS: Final[tuple[Callable[[Ask], _Step | None], ...]] = (
    _kv_dtype,
    _attention_only,
    _smaller_weights,
    _smaller_batch,
    _fewer_slots,
    _fewer_requests,
    _shorter,
    _more_cards,
)
_LEAST_COST: Final = (1.0, 1.5, 2.0, 1.25, 1.0, 1.0, 2.0, 6.0)
