"""Forecast of a training run: memory by part, hours, and whether serving can stay up beside it.

Knows LoRA, QLoRA and full training with AdamW, with and without activation checkpointing. Does not know data loaders or several nodes. Its constants are
arithmetic or claims of others: measure the first run and compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from consilium.planner import lora, weights
from consilium.planner.cards import Card
from consilium.planner.figures import GIB, constant
from consilium.planner.lora import Slots
from consilium.planner.refusal import wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut
from consilium.planner.verdict import Verdict

Method = Literal["lora", "qlora", "full"]


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be trained: examples of `length` tokens, `batch` of them per step, `tokens` in all (epochs counted)."""

    method: Method = "lora"
    rank: int = 16
    targets: tuple[str, ...] = lora.GROUPS
    length: int = 4096
    batch: int = 1
    tokens: int = 10_000_000
    checkpointing: bool = True


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes by part on one card, the verdict, and hours (low, likely, high)."""

    parts: tuple[tuple[str, int, str], ...]
    total: int
    card_bytes: int
    verdict: Verdict
    trained_params: int
    hours: tuple[float, float, float] | None
    sentence: str


def forecast(shape: Shape, card: Card, run: Run) -> Forecast:
    """Return the forecast of one run on one card."""
    _check(run)
    trained = trained_params(shape, run)
    parts = tuple(_parts(shape, run, trained))
    total = sum(size for _, size, _ in parts)
    margin = card.total_bytes - total
    verdict: Verdict = (
        "no"
        if margin < 0
        else "tight"
        if margin < constant("train_tight_share") * card.total_bytes
        else "fits"
    )
    return Forecast(
        parts,
        total,
        card.total_bytes,
        verdict,
        trained,
        hours(shape, card, run),
        _sentence(shape, card, run, margin),
    )


def _check(run: Run) -> None:
    for name, value, top in (
        ("length", run.length, 1 << 22),
        ("batch", run.batch, 4096),
        ("rank", run.rank, 1024),
        ("tokens", run.tokens, 1 << 50),
    ):
        if not 1 <= value <= top:
            raise wrong(name, f"{value} cannot be trained; give 1 to {top}")


def trained_params(shape: Shape, run: Run) -> int:
    """Return how many parameters get gradients: all, or the two factors of every targeted matrix at the exact rank."""
    if run.method == "full":
        return shape.params()
    targets = tuple(group for group in run.targets if group != "head")
    per_step = lora.slot_bytes(shape, Slots(1, lora.RANKS[0], targets), Cut())
    return round(sum(per_step.values()) / 2 * run.rank)


def _parts(shape: Shape, run: Run, trained: int) -> list[tuple[str, int, str]]:
    if run.method == "qlora":
        held = round(
            shape.matrices() * constant("train_nf4_bits") / 8
            + 2 * (shape.embeddings() + shape.small_tensors() + shape.vision_params)
        )
        why = "4-bit NF4 matrices, 16-bit rest"
    else:
        held, why = weights.checkpoint_bytes(shape, "bf16"), "16-bit"
    found = [("weights", held, why)]
    if run.method != "full":
        found.append(
            (
                "adapter",
                round(trained * (2 + constant("train_master_bytes"))),
                f"{trained / 1e6:.1f} M parameters at rank {run.rank}, with a 32-bit copy",
            )
        )
    else:
        found.append(
            ("32-bit copy", round(trained * constant("train_master_bytes")), "of every weight")
        )
    found += [
        ("gradients", round(trained * constant("train_gradient_bytes")), "of what is trained"),
        ("optimiser", round(trained * constant("train_optimiser_bytes")), "AdamW, two moments"),
        (
            "activations",
            activation_bytes(shape, run),
            f"{run.batch} x {run.length} tokens, {'recomputed per layer' if run.checkpointing else 'all kept'}",
        ),
        (
            "logits and loss",
            round(run.batch * run.length * shape.vocab * constant("train_logit_bytes")),
            f"{shape.vocab} entries per token; a fused loss saves most of it",
        ),
        ("CUDA and fragments", round(constant("train_overhead_gib") * GIB), "assumed"),
    ]
    return found


def activation_bytes(shape: Shape, run: Run) -> int:
    """Return bytes of activations in 16 bits: with checkpointing one hidden state per layer and one whole layer; without, every layer whole."""
    tokens = run.batch * run.length
    attention = 2 * shape.hidden + 3 * shape.q_width + 2 * shape.kv_width
    layer = tokens * (4 * shape.hidden + attention + 4 * shape.active_width) * 2
    if run.checkpointing:
        return tokens * shape.hidden * 2 * shape.layers + 2 * layer
    return layer * shape.layers


def hours(shape: Shape, card: Card, run: Run) -> tuple[float, float, float] | None:
    """Return (low, likely, high) hours: 6 flop per active parameter and token for full training, 4 for adapters, and 2 more when layers are recomputed."""
    if not card.bf16_tflops:
        return None
    idle = (
        shape.moe_layers
        * (shape.experts - shape.experts_per_token)
        * 3
        * shape.hidden
        * shape.expert_width
    )
    per_token: float = (shape.matrices() - idle + shape.vocab * shape.hidden) * (
        (6 if run.method == "full" else 4) + (2 if run.checkpointing else 0)
    )
    per_token += 2 * 4 * shape.full_layers * shape.q_width * run.length / 2
    share = constant("train_moe_share" if shape.is_moe else "train_share") * (
        constant("train_qlora_factor") if run.method == "qlora" else 1.0
    )
    likely = run.tokens * per_token / (card.bf16_tflops * 1e12 * share) / 3600
    return likely * constant("train_hours_low"), likely, likely * constant("train_hours_high")


def _sentence(shape: Shape, card: Card, run: Run, margin: float) -> str:
    if margin >= 0:
        return f"{run.method} training of {shape.name} leaves {margin / GIB:.1f} GiB of {card.name} free."
    options = []
    if not run.checkpointing:
        options.append("recompute activations (checkpointing)")
    if run.method == "full":
        options.append("train an adapter (lora) instead of all weights")
    if run.method == "lora":
        options.append("keep the base in 4 bits (qlora)")
    if shape.is_moe and run.method != "full" and "experts" in run.targets:
        options.append("train attention only (--targets attention)")
    if run.length > 1024:
        options.append("cut examples to fewer tokens")
    return f"{run.method} training of {shape.name} misses {-margin / GIB:.1f} GiB on {card.name}: {', or '.join(options) if options else 'take a smaller model or a larger card'}."


def room_beside(shape: Shape, card: Card, run: Run, served: str) -> str:
    """Return whether a serving engine of the same model in format `served` can stay up on the same card, in one sentence."""
    total = forecast(shape, card, run).total
    needed = weights.checkpoint_bytes(shape, weights.format_named(served)) + round(
        (constant("non_torch_one_gib") + 2.0) * GIB
    )
    left = card.total_bytes - total - needed
    if left < 0:
        return f"Serving {shape.name} in {served} beside it misses {-left / GIB:.1f} GiB: put the engine to sleep or drain it while the training runs."
    return f"Serving {shape.name} in {served} can stay up beside it with {left / GIB:.1f} GiB for its KV; both are slower while both work."
