"""Bytes of LoRA slots: vLLM allocates every slot at load, full or empty, at the largest rank, for every targeted module.

Knows the layout of slots for attention, MLP, experts, router and head. Does not know which adapters exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consilium.planner.refusal import nearest, wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut, experts_on_card, kv_heads_on_card, padded_vocab

RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
GROUPS: Final = ("attention", "mlp", "experts", "head")
_MODULES: Final = {
    "q_proj": "attention",
    "k_proj": "attention",
    "v_proj": "attention",
    "o_proj": "attention",
    "qkv_proj": "attention",
    "in_proj_qkv": "attention",
    "out_proj": "attention",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
    "gate_up_proj": "mlp",
    "gate": "experts",
    "experts": "experts",
    "lm_head": "head",
    "attention": "attention",
    "mlp": "mlp",
    "head": "head",
}


@dataclass(frozen=True, slots=True)
class Slots:
    """LoRA settings of one engine. `rank` is max_lora_rank; zero slots means LoRA is off; host_adapters is max_cpu_loras."""

    slots: int = 0
    rank: int = 16
    targets: tuple[str, ...] = GROUPS
    fully_sharded: bool = False
    shared_outer: bool = False
    host_adapters: int = 0


def rank_step(rank: int) -> int:
    """Return the max_lora_rank that holds `rank`: vLLM knows only certain steps."""
    for step in RANKS:
        if step >= rank:
            return step
    raise wrong("rank", f"{rank} is above vLLM's largest max_lora_rank; use at most {RANKS[-1]}")


def targets_named(names: str) -> tuple[str, ...]:
    """Return the groups that a comma list means: all, attention, mlp, experts, head, or module names such as q_proj."""
    if names.strip().lower() in {"all", "all-linear", ""}:
        return GROUPS
    found: list[str] = []
    for name in (part.strip().lower() for part in names.split(",")):
        if name not in _MODULES:
            raise wrong(
                "targets",
                f"{name[:40]!r} is no LoRA target; the nearest is {nearest(name, _MODULES)!r}. 'all' and 'attention' are the common choices",
            )
        if _MODULES[name] not in found:
            found.append(_MODULES[name])
    if "mlp" in found and "experts" not in found:
        found.append("experts")
    return tuple(group for group in GROUPS if group in found)


def slot_bytes(shape: Shape, lora: Slots, cut: Cut) -> dict[str, int]:
    """Return bytes of one slot on one card by group, for the groups that the model has and `lora` targets; 16-bit factors."""
    rank, tp = rank_step(lora.rank), cut.tp
    sh = tp if lora.fully_sharded else 1
    found: dict[str, float] = {}
    if "attention" in lora.targets:
        found["attention"] = (
            2.0
            / cut.pp
            * (
                (shape.layers - shape.linear_layers) * _attention(shape, rank, tp, sh)
                + shape.linear_layers * _linear(shape, rank, tp, sh)
            )
        )
    dense = shape.layers - shape.moe_layers
    if "mlp" in lora.targets and (dense * shape.mlp_width or shape.shared_width):
        width = dense * _mlp(shape, rank, tp, sh, shape.mlp_width) if shape.mlp_width else 0
        shared = (
            shape.moe_layers * _mlp(shape, rank, tp, sh, shape.shared_width)
            if shape.shared_width
            else 0
        )
        found["mlp"] = 2.0 / cut.pp * (width + shared)
    if "experts" in lora.targets and shape.is_moe:
        found["experts"] = (
            2.0
            / cut.pp
            * shape.moe_layers
            * (_experts(shape, lora, cut, sh) + rank * (shape.hidden + shape.experts))
        )
    if "head" in lora.targets:
        found["head"] = 2.0 * rank * (shape.hidden + padded_vocab(shape) / tp)
    return {group: round(size) for group, size in found.items()}


def _attention(shape: Shape, rank: int, tp: int, sh: int) -> float:
    query = shape.q_width * (2 if shape.output_gate else 1) / tp
    kv = kv_heads_on_card(shape, tp) * shape.head_dim
    return (
        3 * rank / sh * shape.hidden
        + rank * (query + 2 * kv)
        + rank * shape.q_width / tp
        + rank * shape.hidden / sh
    )


def _linear(shape: Shape, rank: int, tp: int, sh: int) -> float:
    value = shape.linear_value_heads * shape.linear_value_dim
    return (
        2 * rank / sh * shape.hidden
        + rank * (shape.linear_conv_width + value) / tp
        + rank * value / tp
        + rank * shape.hidden / sh
    )


def _mlp(shape: Shape, rank: int, tp: int, sh: int, width: int) -> float:
    return (
        2 * rank / sh * shape.hidden
        + 2 * rank * width / tp
        + rank * width / tp
        + rank * shape.hidden / sh
    )


def _experts(shape: Shape, lora: Slots, cut: Cut, sh: int) -> float:
    local = experts_on_card(shape, cut)
    tp = 1 if cut.expert_parallel else cut.tp
    rank = rank_step(lora.rank)
    outer = 2 * rank / sh * shape.hidden + rank * shape.hidden / sh
    inner = 3 * rank * shape.expert_width / tp
    return outer * (1 if lora.shared_outer else local) + inner * local


def total_bytes(shape: Shape, lora: Slots, cut: Cut) -> int:
    """Bytes of all slots on one card."""
    return lora.slots * sum(slot_bytes(shape, lora, cut).values()) if lora.slots else 0


def host_bytes(shape: Shape, lora: Slots) -> int:
    """Bytes of pinned host memory for max_cpu_loras adapters at the full rank (at least as many as there are slots)."""
    if not lora.slots:
        return 0
    return max(lora.host_adapters, lora.slots) * sum(slot_bytes(shape, lora, Cut()).values())


def check(shape: Shape, lora: Slots, cut: Cut) -> None:
    """Raise invalid_request for settings that vLLM refuses."""
    if lora.slots < 0 or lora.rank < 1:
        raise wrong("adapters", "slots are at least 0 and the rank at least 1")
    if lora.host_adapters < 0:
        raise wrong(
            "max-cpu-loras", f"{lora.host_adapters} adapters cannot be kept in RAM; give 0 or more"
        )
    rank_step(lora.rank)
    if lora.slots and cut.expert_parallel and lora.fully_sharded and shape.is_moe:
        raise wrong(
            "fully_sharded_loras",
            "expert parallel and fully sharded LoRA exclude each other for a mixture of experts; leave one out",
        )
