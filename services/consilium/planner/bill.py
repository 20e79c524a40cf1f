"""Where every GiB of a card goes: weights, slots, overhead, KV; low, likely and high.

Knows one engine's question. Does not judge it (verdict.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from consilium.planner import kv, lora, overhead, weights
from consilium.planner.ask import Ask
from consilium.planner.figures import GIB, constant
from consilium.planner.overhead import Part
from consilium.planner.sharding import Stage, stages


@dataclass(frozen=True, slots=True)
class Bill:
    """One card of one stage, in bytes.

    budget     what the engine may take
    total      what the card or the machine has
    parts      lines before KV
    kv         room left for KV: (low, likely, high); fixed when kv_bytes is given
    kv_needed  what the asked requests need
    token_kv   bytes of one more token on this card
    """

    stage: Stage
    card: str
    total: int
    budget: int
    parts: tuple[Part, ...]
    kv: tuple[float, float, float]
    kv_needed: int
    token_kv: float

    def spent(self) -> float:
        """Likely bytes before KV."""
        return sum(part.likely for part in self.parts)

    def part(self, name: str) -> Part | None:
        """Return the line called `name`."""
        return next((part for part in self.parts if part.name == name), None)


def bills(ask: Ask) -> tuple[Bill, ...]:
    """Return one bill per pipeline stage, for that stage's smallest card; a CPU engine has one."""
    if ask.on_cpu:
        return (_cpu_bill(ask),)
    found = []
    for index, stage in enumerate(stages(ask.shape, ask.cut.pp, ask.cut.partition)):
        group = ask.cards[index * ask.cut.tp : (index + 1) * ask.cut.tp]
        weakest = min(group, key=lambda card: card.total_gib)
        total = weakest.total_bytes
        budget = math.ceil(total * ask.share)
        lines = (*_weight_parts(ask, stage), *_overhead_parts(ask))
        if weakest.unified:
            held = constant("unified_reserve_share") * total
            lines = (
                *lines,
                Part(
                    "system on unified memory",
                    constant("unified_spread_low") * held,
                    held,
                    constant("unified_spread_high") * held,
                    "processor and card share this memory",
                ),
            )
        found.append(
            _with_kv(ask, stage, name=weakest.name, total=total, budget=budget, lines=lines)
        )
    return tuple(found)


def _weight_parts(ask: Ask, stage: Stage) -> tuple[Part, ...]:
    size = weights.card_bytes(ask.shape, ask.weights, ask.cut, stage)
    loose = weights.spread(ask.weights)
    if ask.weights_bytes:
        size = round(
            ask.weights_bytes * size / max(1, weights.checkpoint_bytes(ask.shape, ask.weights))
        )
        loose = weights.spread("bf16")
    size = max(0, size - ask.weights_to_ram)
    lines = [
        Part(
            "weights",
            size * (1 - loose),
            size,
            size * (1 + loose),
            f"{ask.weights}, {ask.shape.params() / 1e9:.2f} B parameters",
        )
    ]
    slots = lora.total_bytes(ask.shape, ask.lora, ask.cut)
    if slots:
        lines.append(
            Part(
                "LoRA slots",
                constant("lora_spread_low") * slots,
                slots,
                constant("lora_spread_high") * slots,
                f"{ask.lora.slots} slots at rank {lora.rank_step(ask.lora.rank)} on {_targets(ask)}, taken at load, full or empty",
            )
        )
    return tuple(lines)


def _targets(ask: Ask) -> str:
    groups = list(lora.slot_bytes(ask.shape, ask.lora, ask.cut))
    return (
        "all layers' matrices" if set(ask.lora.targets) == set(lora.GROUPS) else ", ".join(groups)
    )


def _overhead_parts(ask: Ask) -> tuple[Part, ...]:
    if ask.overhead_bytes is not None:
        spread = constant("boot_spread_gib") * GIB
        size = ask.overhead_bytes
        return (
            Part(
                "overhead, measured",
                size - spread / 2,
                size,
                size + spread / 2,
                "from a boot log of this model, card and version",
            ),
        )
    return overhead.parts(
        ask.shape, ask.cut, ask.batch, runner=ask.model_runner, version=ask.version, eager=ask.eager
    )


def _with_kv(
    ask: Ask, stage: Stage, *, name: str, total: int, budget: int, lines: tuple[Part, ...]
) -> Bill:
    share = stage.share(ask.shape)
    needed = ask.requests * kv.request_bytes(
        ask.shape,
        ask.kv_dtype,
        ask.context,
        ask.cut.tp,
        prefix_caching=ask.prefix_caching,
        layer_share=share,
    )
    if not ask.eager:
        needed = max(
            needed,
            kv.sequences_bytes(
                ask.shape, ask.kv_dtype, ask.batch.sequences, ask.cut.tp, layer_share=share
            ),
        )
    token = kv.token_bytes(ask.shape, ask.kv_dtype, ask.cut.tp) * share
    low, likely, high = (
        budget - sum(getattr(part, side) for part in lines) for side in ("high", "likely", "low")
    )
    if ask.kv_bytes is not None:
        budget = total
        low = likely = high = float(ask.kv_bytes)
    return Bill(stage, name, total, budget, lines, (low, likely, high), needed, token)


def _cpu_bill(ask: Ask) -> Bill:
    stage = Stage(ask.shape.layers, first=True, last=True)
    total = ask.ram_bytes or 0
    base = constant("cpu_engine_base_gib") + constant("cpu_cluster_base_gib")
    lines = (*_weight_parts(ask, stage), *overhead.cpu_parts(ask.shape, ask.batch, base_gib=base))
    needed = ask.requests * kv.request_bytes(
        ask.shape, ask.kv_dtype, ask.context, ask.cut.tp, prefix_caching=ask.prefix_caching
    )
    token = float(kv.token_bytes(ask.shape, ask.kv_dtype, ask.cut.tp))
    default = round(constant("cpu_kv_default_gib") * GIB)
    kept = float(ask.kv_bytes if ask.kv_bytes is not None else max(default, min(needed, total)))
    return Bill(stage, "RAM", total, total, lines, (kept, kept, kept), needed, token)
