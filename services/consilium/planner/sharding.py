"""How one engine is cut over cards: tensor, pipeline and expert parallel, and which cuts are impossible.

Knows vLLM's divisibility rules. Does not know memory sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consilium.planner.figures import constant, table
from consilium.planner.refusal import wrong
from consilium.planner.shapes import Shape


@dataclass(frozen=True, slots=True)
class Cut:
    """One engine over tp x pp cards, `dp` copies of its attention, experts whole per card when `expert_parallel`.

    partition  layers of each pipeline stage; empty = equal parts
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    expert_parallel: bool = False
    partition: tuple[int, ...] = ()

    @property
    def cards(self) -> int:
        """Cards of one copy."""
        return self.tp * self.pp

    @property
    def expert_ranks(self) -> int:
        """Cards over which whole experts are spread; 1 without expert parallel."""
        return self.tp * self.dp if self.expert_parallel else 1


@dataclass(frozen=True, slots=True)
class Stage:
    """One pipeline stage: how many layers, and whether embedding and head live there."""

    layers: int
    first: bool
    last: bool

    def share(self, shape: Shape) -> float:
        """Part of all layers."""
        return self.layers / shape.layers


def partition_for(shape: Shape, sizes: Sequence[float]) -> tuple[int, ...]:
    """Return layers per stage in proportion to the room on each stage's card (any unit), at least one each: VLLM_PP_LAYER_PARTITION."""
    whole = sum(sizes)
    counts = [max(1, int(shape.layers * size / whole)) for size in sizes]
    while sum(counts) != shape.layers:
        step = 1 if sum(counts) < shape.layers else -1
        movable = [index for index in range(len(counts)) if step > 0 or counts[index] > 1]
        counts[min(movable, key=lambda index: step * counts[index] / sizes[index])] += step
    return tuple(counts)


def stages(shape: Shape, pp: int, partition: tuple[int, ...] = ()) -> tuple[Stage, ...]:
    """Return the pipeline stages: `partition` where it is given, else vLLM's own: equal parts, the remainder to the stages before the last one."""
    if partition:
        return tuple(
            Stage(count, index == 0, index == pp - 1) for index, count in enumerate(partition)
        )
    each, over = divmod(shape.layers, pp)
    counts = [each] * pp
    for extra in range(over):
        counts[-2 - extra] += 1
    return tuple(Stage(count, index == 0, index == pp - 1) for index, count in enumerate(counts))


def kv_heads_on_card(shape: Shape, tp: int) -> int:
    """KV heads per card; beyond tp = kv_heads they are repeated, not split."""
    return max(1, shape.kv_heads // tp)


def experts_on_card(shape: Shape, cut: Cut) -> int:
    """Experts of a layer on the fullest card. With expert parallel vLLM spreads them as evenly as it can: the first cards take one more.

    Source: vLLM 0.32, fused_moe/expert_map_manager.py, determine_expert_map.
    """
    return -(-shape.experts // cut.expert_ranks)


def objection(shape: Shape, cut: Cut, weights: str = "bf16") -> str | None:
    """Return why this cut cannot be, as one sentence, or None. The planner and the engine's plan both ask here.

    Source: vLLM 0.32: model_executor/layers/linear.py and each model's attention (heads, KV heads, MLP width), the models' sparse blocks (tp over experts),
    fused_moe/config.py (expert width; with expert parallel experts stay whole), config/model.py (expert parallel needs experts).
    """
    tp, pp = cut.tp, cut.pp
    if tp < 1 or pp < 1 or cut.dp < 1:
        return "tensor, pipeline and data parallel are whole numbers of at least 1"
    if pp > shape.layers:
        return f"pipeline parallel {pp} is more than the {shape.layers} layers"
    if shape.heads % tp:
        return f"tensor parallel {tp} does not divide the {shape.heads} attention heads"
    if shape.is_hybrid and (shape.linear_value_heads % tp or shape.linear_key_heads % tp):
        return f"tensor parallel {tp} does not divide the {shape.linear_key_heads} and {shape.linear_value_heads} heads of the linear layers"
    if shape.kv_heads % tp and tp % shape.kv_heads:
        return f"tensor parallel {tp} does not fit the {shape.kv_heads} KV heads"
    return _objection_to_widths(shape, cut, weights)


def _objection_to_widths(shape: Shape, cut: Cut, weights: str) -> str | None:
    tp = cut.tp
    if shape.mlp_width % tp:
        return f"tensor parallel {tp} does not divide the MLP width {shape.mlp_width}"
    if shape.shared_width % tp:
        return f"tensor parallel {tp} does not divide the width {shape.shared_width} of the shared expert"
    if (shape.is_moe or cut.expert_parallel) and (reason := _objection_to_experts(shape, cut)):
        return reason
    group = table("formats")["formats"].get(weights, {}).get("group", 0)
    width = shape.mlp_width or (0 if cut.expert_parallel else shape.expert_width)
    if group and tp > 1 and width and (width // tp) % group and weights in {"int4", "int8"}:
        return f"tensor parallel {tp} leaves {width // tp} of the width {width}, which the quantisation groups of {group} do not divide"
    return None


def _objection_to_experts(shape: Shape, cut: Cut) -> str | None:
    if not shape.is_moe:
        return "expert parallel needs a mixture of experts"
    if cut.tp > shape.experts:
        return f"tensor parallel {cut.tp} is more than the {shape.experts} experts"
    if cut.expert_parallel:
        more = cut.expert_ranks > shape.experts
        return (
            f"{cut.expert_ranks} ranks are more than the {shape.experts} experts" if more else None
        )
    ranks = cut.tp * cut.dp
    if shape.expert_width % ranks:
        parallel = f"tensor parallel {cut.tp}" + (f" x data parallel {cut.dp}" * (cut.dp > 1))
        return f"{parallel} does not divide the expert width {shape.expert_width}"
    return None


def fp8_blocks_broken(shape: Shape, cut: Cut) -> bool:
    """Whether this cut leaves widths that fp8 blocks do not divide: vLLM before 0.33 refuses them, later versions fall back."""
    block = int(table("formats")["formats"]["fp8"]["block"])
    width = shape.mlp_width or (0 if cut.expert_parallel else shape.expert_width)
    return bool(width) and (width // cut.tp) % block != 0


def possible_tp(
    shape: Shape, limit: int, weights: str = "bf16", *, expert_parallel: bool = False
) -> list[int]:
    """Return the tensor-parallel sizes up to `limit` that work, smallest first."""
    return [
        tp
        for tp in range(1, limit + 1)
        if objection(shape, Cut(tp, expert_parallel=expert_parallel), weights) is None
    ]


def check(shape: Shape, cut: Cut, weights: str = "bf16") -> None:
    """Raise invalid_request with the nearest cut that works when this one cannot be."""
    reason = objection(shape, cut, weights)
    if reason is None:
        return
    whole = cut.expert_parallel and shape.is_moe
    sizes = possible_tp(shape, max(8, min(cut.tp, 64)), weights, expert_parallel=whole)
    best = min(sizes, key=lambda tp: (abs(tp - cut.tp), tp))
    raise wrong(
        "tensor_parallel" if cut.tp not in sizes else "parallel",
        f"{reason}; {shape.name} works with {_listed(sizes)}, nearest is {best}",
    )


def _listed(sizes: list[int]) -> str:
    return "1" if sizes == [1] else ", ".join(str(size) for size in sizes[:-1]) + f" or {sizes[-1]}"


def padded_vocab(shape: Shape) -> int:
    """Vocabulary as stored: rounded up to the padding."""
    step = int(constant("vocab_padding"))
    return -(-shape.vocab // step) * step
