"""What survives a change of the base model: adapters, library vectors, configurations, tokenizer, roles.

Compares two shapes and their vocabularies. Does not read adapters' tensors (the registry does) and does not judge quality.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from consilium.planner import kv, rope, weights
from consilium.planner.figures import GIB, tokens_in_words
from consilium.planner.lora import Slots, slot_bytes
from consilium.planner.models import Model
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut, possible_tp

Fate = Literal["survives", "check", "lost"]
MOST_CARDS = 8


@dataclass(frozen=True, slots=True)
class Survivor:
    """One thing, whether it survives, and why."""

    what: str
    fate: Fate
    sentence: str


def survivors(old: Model, new: Model) -> list[Survivor]:
    """Return what a move from `old` to `new` keeps, what must be looked at, and what is lost."""
    before, after = old.shape, new.shape
    return [
        _adapters(old, new),
        _vectors(),
        _tokenizer(before, after),
        _edits(before, after),
        _memory(before, after),
        _cut(before, after),
        _context(before, after),
        _frames(old, new),
    ]


def same_matrices(before: Shape, after: Shape) -> bool:
    """Whether every matrix that a LoRA may target has the same size in both, layer by layer."""
    keys = (
        "layers",
        "hidden",
        "heads",
        "kv_heads",
        "head_dim",
        "mlp_width",
        "experts",
        "expert_width",
        "shared_width",
        "linear_layers",
        "linear_key_heads",
        "linear_value_heads",
        "output_gate",
    )
    return all(getattr(before, key) == getattr(after, key) for key in keys)


def _adapters(old: Model, new: Model) -> Survivor:
    if old.hf_id and old.shape.name == new.shape.name:
        if weights.is_quantised(new.weights or "bf16") or weights.is_quantised(
            old.weights or "bf16"
        ):
            return Survivor(
                "adapters",
                "check",
                "The same model in another number format: adapters load and mean the same; small differences remain, so probe them once.",
            )
        return Survivor("adapters", "survives", "It is the same model.")
    if same_matrices(old.shape, new.shape):
        return Survivor(
            "adapters",
            "check",
            "All matrices have the same sizes, so adapters load. They were trained against other weights: their effect may fade or turn. Probe each one, or train again.",
        )
    a, b = old.shape, new.shape
    differing = [
        f"{name} {x} -> {y}"
        for name, x, y in (
            ("layers", a.layers, b.layers),
            ("hidden_size", a.hidden, b.hidden),
            ("heads", a.heads, b.heads),
            ("MLP width", a.mlp_width, b.mlp_width),
            ("experts", a.experts, b.experts),
            ("KV heads", a.kv_heads, b.kv_heads),
        )
        if x != y
    ]
    return Survivor(
        "adapters",
        "lost",
        f"The matrices have other sizes ({', '.join(differing) or 'other kinds of layers'}): no adapter loads. Train them again from the same texts.",
    )


def _vectors() -> Survivor:
    return Survivor(
        "library vectors",
        "survives",
        "They belong to the embedder, not to this model. They are lost only when the embedder changes: then every text is embedded again.",
    )


def _tokenizer(before: Shape, after: Shape) -> Survivor:
    if before.vocab == after.vocab:
        return Survivor(
            "token counts",
            "check",
            "The embedding tables have the same number of rows; where the tokenizer is the same too, quotas and limits keep their meaning.",
        )
    return Survivor(
        "token counts",
        "check",
        f"Another vocabulary ({before.vocab:,} -> {after.vocab:,} rows): the same text has another number of tokens, so look at limits, quotas and chunk sizes. Added tokens are lost.",
    )


def _edits(before: Shape, after: Shape) -> Survivor:
    if (
        before.is_moe == after.is_moe
        and before.rope_theta == after.rope_theta
        and before.max_positions == after.max_positions
    ):
        return Survivor(
            "hf_overrides",
            "check",
            "Positions and experts are of the same kind; compare with 'consilium plan check-config'.",
        )
    return Survivor(
        "hf_overrides",
        "lost",
        "YaRN factors and experts per token belong to the old model: take them out and plan the context anew.",
    )


def _memory(before: Shape, after: Shape) -> Survivor:
    one, two = (weights.checkpoint_bytes(shape, "bf16") / GIB for shape in (before, after))
    first, second = kv.token_bytes(before, "bf16"), kv.token_bytes(after, "bf16")
    slots = [
        sum(slot_bytes(shape, Slots(1, 16), Cut()).values()) / GIB for shape in (before, after)
    ]
    return Survivor(
        "memory settings",
        "check",
        f"Weights {one:.1f} -> {two:.1f} GiB in 16 bits, KV {first:,} -> {second:,} bytes a token, one r16 slot on everything {slots[0]:.2f} -> {slots[1]:.2f} GiB: plan again.",
    )


def _cut(before: Shape, after: Shape) -> Survivor:
    one, two = possible_tp(before, MOST_CARDS), possible_tp(after, MOST_CARDS)
    if one == two:
        return Survivor(
            "topology", "survives", f"Tensor parallel may be {', '.join(map(str, two))} as before."
        )
    return Survivor(
        "topology",
        "check",
        f"Tensor parallel could be {', '.join(map(str, one))} and can now be {', '.join(map(str, two))}.",
    )


def _context(before: Shape, after: Shape) -> Survivor:
    one, two = rope.reach(before, 1), rope.reach(after, 1)
    said = f"Trained for {tokens_in_words(one.native)} -> {tokens_in_words(two.native)} tokens, described to {tokens_in_words(one.longest)} -> {tokens_in_words(two.longest)}."
    return Survivor(
        "context",
        "survives" if two.longest >= one.longest and two.native >= one.native else "check",
        said,
    )


def _frames(old: Model, new: Model) -> Survivor:
    same = old.shape.family == new.shape.family
    said = (
        "The family is the same; templates, tool calls and thinking usually are too."
        if same
        else "Another family: chat template, tool calls and thinking differ, and a base model has none of them."
    )
    return Survivor(
        "roles and profiles",
        "survives" if same else "check",
        f"Texts of roles stay as they are. {said} Prefix caches begin empty.",
    )
