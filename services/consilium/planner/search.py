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
from consilium.planner.sharding import Cut, possible_tp
from consilium.planner.verdict import Plan, plan

SHORTEST: Final = 1024
MOST_KNOBS: Final = 4


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
            if not any(done <= set(chosen) for _, done, _ in working):
                found = _apply(ask, chosen)
                if found is not None:
                    working.append((found[0], frozenset(chosen), found[1]))
    for _, _, change in sorted(working, key=lambda entry: entry[0])[:limit]:
        yield change


def _apply(ask: Ask, chosen: tuple[int, ...]) -> tuple[float, Change] | None:
    steps: list[_Step] = []
    for index in chosen:
        step = _KINDS[index](ask)
        if step is None:
            return None
        steps.append(step)
        ask = step.ask
    if not _fits(ask):
        return None
    answer = plan(ask)
    return sum(step.cost for step in steps), Change(" and ".join(step.words for step in steps), tuple(step.knob for step in steps), answer)


def _kv_dtype(ask: Ask) -> _Step | None:
    old = [card for card in ask.cards if 0 < card.compute_capability < 8.0]
    if ask.on_cpu or kv.element_bytes(kv.dtype_named(ask.kv_dtype)) < 2 or old:
        return None
    return _Step("keep the KV cache in fp8", ("kv_cache_dtype", "fp8"), ask.with_(kv_dtype="fp8"), 1.0)


def _fewer_slots(ask: Ask) -> _Step | None:
    for slots in range(ask.lora.slots - 1, 0, -1):
        trial = ask.with_(lora=replace(ask.lora, slots=slots))
        if _fits(trial):
            return _Step(
                f"take {slots} LoRA slot{'s' if slots > 1 else ''} instead of {ask.lora.slots}",
                ("max_loras", str(slots)),
                trial,
                1.0 + log2(ask.lora.slots / slots),
            )
    if ask.lora.slots > 1:
        return _Step(
            f"take 1 LoRA slot instead of {ask.lora.slots}", ("max_loras", "1"), ask.with_(lora=replace(ask.lora, slots=1)), 1.0 + log2(ask.lora.slots)
        )
    return None


def _attention_only(ask: Ask) -> _Step | None:
    if not ask.lora.slots or ask.lora.targets == ("attention",):
        return None
    return _Step("serve adapters on attention only", ("lora_target_modules", "attention"), ask.with_(lora=replace(ask.lora, targets=("attention",))), 1.5)


def _smaller_batch(ask: Ask) -> _Step | None:
    batch = ask.batch
    for sequences, tokens in ((64, 2048), (16, 2048), (4, 1024)):
        trial = ask.with_(sequences=max(min(sequences, batch.sequences), min(ask.requests, batch.sequences)), batched_tokens=min(tokens, batch.tokens))
        if trial.batch != batch and _fits(trial):
            return _Step(
                f"run {trial.batch.sequences} sequences and {trial.batch.tokens} tokens per step at most",
                ("max_num_seqs", f"{trial.batch.sequences}, max_num_batched_tokens {trial.batch.tokens}"),
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
        words = "load the weights in fp8 (vLLM converts a bf16 checkpoint)" if name == "fp8" else "take a 4-bit checkpoint of the model (AWQ or GPTQ)"
        best = _Step(words, ("quantization", "fp8" if name == "fp8" else "awq"), ask.with_(weights=name, weights_bytes=None), 2.0 if name == "fp8" else 2.5)
        if _fits(best.ask):
            return best
    return best


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
    for tp in possible_tp(ask.shape, 16, weights.format_named(ask.weights)):
        if tp * ask.cut.pp <= ask.cut.cards or tp & (tp - 1):
            continue
        trial = ask.with_(cut=Cut(tp, ask.cut.pp, 1, expert_parallel=False), cards=(largest,) * (tp * ask.cut.pp))
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
    _fewer_slots,
    _attention_only,
    _smaller_batch,
    _fewer_requests,
    _smaller_weights,
    _shorter,
    _more_cards,
)
