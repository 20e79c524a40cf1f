"""The answer to one question: fits, tight or no; how many tokens; and the limit that binds, in words.

Knows bills. Does not search for other settings (search.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from consilium.planner import kv, lora, step
from consilium.planner.ask import Ask, checked
from consilium.planner.bill import Bill, bills
from consilium.planner.figures import constant, gib, tokens_in_words
from consilium.planner.overhead import version_key
from consilium.planner.sharding import fp8_blocks_broken

Verdict = Literal["fits", "tight", "no"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer.

    bill         the card that decides
    margin       likely bytes left after the asked requests on that card; negative = missing
    tokens       KV tokens (low, likely, high); 0 where nothing is left
    concurrency  requests of the asked length that fit at once, likely
    binding      the limit that holds, one sentence
    warnings     sentences about what works but bites
    """

    ask: Ask
    verdict: Verdict
    bill: Bill
    margin: float
    tokens: tuple[int, int, int]
    concurrency: float
    binding: str
    warnings: tuple[str, ...]


def plan(question: Ask) -> Plan:
    """Return the answer to a question. Raises invalid_request for a question that has none."""
    ask = checked(question)
    found = bills(ask)
    judged = [(_margins(ask, bill), bill) for bill in found]
    (margin, worst), bill = min(judged, key=lambda pair: pair[0][0])
    tight = margin < constant("tight_margin_gib") * (1 << 30) or worst < 0
    verdict: Verdict = "no" if margin < 0 else "tight" if tight else "fits"
    rooms = [
        kv.room(
            ask.shape,
            ask.kv_dtype,
            size,
            ask.context,
            ask.cut.tp,
            prefix_caching=ask.prefix_caching,
            layer_share=bill.stage.share(ask.shape),
        )
        for size in bill.kv
    ]
    if any(size < 0 for size in (bill.kv[1],)):
        rooms = [kv.Room(0, 16, 0, 0.0)] * 3
    return Plan(
        ask,
        verdict,
        bill,
        margin,
        (rooms[0].tokens, rooms[1].tokens, rooms[2].tokens),
        rooms[1].concurrency,
        _binding(ask, bill, margin, verdict),
        warnings(ask),
    )


def _margins(ask: Ask, bill: Bill) -> tuple[float, float]:
    """Return (likely, worst) bytes left. A fixed KV must hold the requests, and everything together must fit the card."""
    if ask.kv_bytes is None and not ask.on_cpu:
        return bill.kv[1] - bill.kv_needed, bill.kv[0] - bill.kv_needed
    room = bill.total / ask.engines_on_card
    left = room - bill.spent() - bill.kv[1]
    worst = room - sum(part.high for part in bill.parts) - bill.kv[1]
    short = bill.kv[1] - bill.kv_needed
    return (short, short) if short < 0 else (left, worst)


def _binding(ask: Ask, bill: Bill, margin: float, verdict: Verdict) -> str:
    where = bill.card if ask.cut.cards == 1 or ask.on_cpu else f"each {bill.card}"
    budget = gib(bill.budget / (ask.engines_on_card if ask.kv_bytes else 1))
    held = next(part.likely for part in bill.parts if part.name == "weights")
    if held > bill.budget:
        return f"Weights: {gib(held):.1f} GiB of {ask.weights} weights exceed the {budget:.1f} GiB that the engine may take of {where}."
    need, free = gib(bill.kv_needed), gib(bill.kv[1])
    asked = _asked(ask, bill)
    slots = bill.part("LoRA slots")
    heavy = (
        f" and {gib(slots.likely):.1f} GiB of LoRA slots"
        if slots and slots.likely > 0.02 * bill.budget
        else ""
    )
    if ask.on_cpu or ask.kv_bytes is not None:
        if bill.kv[1] < bill.kv_needed:
            return f"KV cache: {asked} {need:.1f} GiB and the KV cache is fixed at {free:.1f} GiB."
        total = gib(bill.spent() + bill.kv[1])
        relation = "and exceed" if verdict == "no" else "of"
        return f"Memory: weights{heavy}, overhead and {free:.1f} GiB of KV take {total:.1f} GiB {relation} the {gib(bill.total / ask.engines_on_card):.1f} GiB of {where}."
    if free < 0:
        return f"Memory: {gib(held):.1f} GiB of weights{heavy} and the overhead exceed the {budget:.1f} GiB that the engine may take of {where} by {-free:.1f} GiB."
    after = f"{free:.1f} GiB are left on {where} after {gib(held):.1f} GiB of weights{heavy}"
    if verdict == "no":
        return f"KV cache: {asked} {need:.1f} GiB and {after}; {gib(-margin):.1f} GiB are missing."
    return f"KV cache: {asked} {need:.1f} GiB and {after}."


def _asked(ask: Ask, bill: Bill) -> str:
    """Return who needs the cache: the asked requests, or, in a hybrid model, a block of state for every sequence of the batch."""
    states = kv.sequences_bytes(
        ask.shape,
        ask.kv_dtype,
        ask.batch.sequences,
        ask.cut.tp,
        layer_share=bill.stage.share(ask.shape),
    )
    if not ask.eager and 0 < states >= bill.kv_needed:
        return f"a hybrid model keeps a block of state for each of its {ask.batch.sequences} sequences, which needs"
    many = f"{ask.requests} requests" if ask.requests > 1 else "one request"
    return (
        f"{many} of {tokens_in_words(ask.context)} tokens {'need' if ask.requests > 1 else 'needs'}"
    )


def _of_its_steps(ask: Ask) -> tuple[str, ...]:
    """Return how long a token may wait for another's prompt, on processors of which the cores are known."""
    if not ask.on_cpu or not ask.cores:
        return ()
    took_s = ask.batch.tokens / step.reading_rate(ask.shape, ask.cores)
    return (
        f"A step reads at most {ask.batch.tokens} tokens of prompts and takes up to {took_s:.1f} s: so long a token may wait for another's prompt. max_num_batched_tokens changes it.",
    )


def warnings(ask: Ask) -> tuple[str, ...]:
    """Return what a person should know though it works."""
    found: list[str] = []
    found += _lora_warnings(ask)
    capable = [card.compute_capability for card in ask.cards if card.compute_capability]
    lowest = min(capable, default=0.0)
    if capable and ask.weights == "fp8" and lowest < constant("fp8_capability"):
        found.append(
            "These cards have no FP8 arithmetic: vLLM unpacks the weights on the fly (Marlin), which saves memory and not compute."
        )
    if capable and ask.weights == "nvfp4" and lowest < constant("fp4_capability"):
        found.append(
            "These cards have no FP4 arithmetic: the weights are unpacked on the fly, which saves memory and not compute."
        )
    if capable and lowest < constant("bf16_capability") and ask.weights == "bf16":
        found.append(
            "These cards have no bfloat16: run with dtype float16, which a few models overflow."
        )
    if len({card.total_gib for card in ask.cards}) > 1 and ask.cut.tp > 1:
        found.append(
            "Tensor parallel over unequal cards wastes the larger one: the smallest decides for all. Give each card its own executor, or use pipeline stages."
        )
    found += _of_its_steps(ask)
    if ask.sequences is None and not ask.on_cpu:
        batch = ask.batch
        found.append(
            f"Pin max_num_seqs and max_num_batched_tokens: vLLM's defaults here are {batch.sequences} and {batch.tokens}, and the sampler pays for every sequence."
        )
    if (
        ask.weights == "fp8"
        and fp8_blocks_broken(ask.shape, ask.cut)
        and version_key(ask.version) < (0, 33)
    ):
        found.append(
            "The fp8 blocks of 128 do not divide the widths of this cut: vLLM before 0.33 refuses such files; take another tensor parallel size or expert parallel."
        )
    if ask.engines_on_card > 1:
        found.append(
            "Start the engines on one card one after the other: each measures free memory while it starts."
        )
    if ask.cut.tp > ask.shape.kv_heads:
        found.append(
            f"Beyond tensor parallel {ask.shape.kv_heads} the KV heads are repeated: more cards add no KV room."
        )
    if any(card.unified for card in ask.cards):
        found.append(
            "Unified memory: how much is free depends on what else runs; trust this figure less."
        )
    return tuple(found)


def _lora_warnings(ask: Ask) -> list[str]:
    if not ask.lora.slots:
        return []
    found = []
    sizes = lora.slot_bytes(ask.shape, ask.lora, ask.cut)
    experts, attention = sizes.get("experts", 0), sizes.get("attention", 0)
    if experts and experts > constant("moe_lora_warning_ratio") * max(attention, 1):
        alone = lora.slot_bytes(ask.shape, lora.Slots(1, ask.lora.rank, ("attention",)), ask.cut)[
            "attention"
        ]
        found.append(
            f"A LoRA slot on all experts takes {gib(sum(sizes.values())):.2f} GiB; on attention only {gib(alone) * 1024:.0f} MiB, {sum(sizes.values()) / alone:.0f} times less. "
            "Train and serve attention-only adapters on this model where they suffice."
        )
    if lora.rank_step(ask.lora.rank) != ask.lora.rank:
        found.append(
            f"max_lora_rank has steps: rank {ask.lora.rank} is served and paid for as {lora.rank_step(ask.lora.rank)}."
        )
    if ask.lora.slots > constant("kernel_slots_limit"):
        found.append(
            f"{ask.lora.slots} slots may fit in memory, but kernels slow down with many different adapters in one batch; about 64 is the practical end."
        )
    host = lora.host_bytes(ask.shape, ask.lora)
    if ask.ram_bytes and host > ask.ram_bytes // 2 and not ask.on_cpu:
        found.append(
            f"{gib(host):.1f} GiB of pinned RAM hold the adapters that are not in a slot; lower max_cpu_loras."
        )
    return found
