"""Bytes of a model's weights in each format, whole and per card.

Knows formats from data/formats.json. Does not know KV or what the engine adds beside the weights.
"""

from __future__ import annotations

from consilium.planner.figures import constant, table
from consilium.planner.refusal import nearest, wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut, Stage, kv_heads_on_card

_ALIASES = {
    "fp16": "bf16",
    "bfloat16": "bf16",
    "float16": "bf16",
    "float32": "fp32",
    "awq": "int4",
    "gptq": "int4",
    "awq_marlin": "int4",
    "gptq_marlin": "int4",
    "awq-int4": "int4",
    "4bit": "int4",
    "w4a16": "int4",
    "8bit": "int8",
    "w8a8": "int8",
    "fp4": "nvfp4",
    "q4_k_m": "gguf:q4_k_m",
    "q8_0": "gguf:q8_0",
    "q4_0": "gguf:q4_0",
    "q6_k": "gguf:q6_k",
    "q5_k_m": "gguf:q5_k_m",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
    "fp8_e4m3": "fp8",
    "auto": "bf16",
}


def format_named(name: str) -> str:
    """Return the format's own name, or raise invalid_request with the nearest one."""
    known = table("formats")["formats"]
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain in known:
        return plain
    raise wrong("weights", f"{name[:40]!r} is no known format; the nearest is {nearest(plain, known)!r}. Known: {', '.join(known)}")


def element_bytes(weights: str, shape: Shape) -> tuple[float, float]:
    """Return bytes per element of (matrices, rest). For a GGUF both are the file's average."""
    entry = table("formats")["formats"][weights]
    if "file_bits" in entry:
        average = entry["file_bits"] / 8
        return average, average
    del shape
    return float(entry["matrix_bytes"]), float(entry["rest_bytes"])


def is_quantised(weights: str) -> bool:
    """Whether the matrices hold less than 16 bits per element."""
    return weights not in {"bf16", "fp32", "gguf:f16"}


def checkpoint_bytes(shape: Shape, weights: str) -> int:
    """Bytes of the whole checkpoint, vision tower included, without a drafting head."""
    matrix, rest = element_bytes(weights, shape)
    others = shape.embeddings() + shape.small_tensors() + shape.vision_params
    return round(shape.matrices() * matrix + others * rest)


def rope_cache_bytes(shape: Shape, positions: int | None = None) -> int:
    """Bytes of the table of sines and cosines: positions x rotary width x 2 bytes."""
    return round((positions or shape.max_positions) * shape.head_dim * shape.rotary_share * 2)


def card_bytes(shape: Shape, weights: str, cut: Cut, stage: Stage) -> int:
    """Bytes of weights on one card of one stage, rope cache included.

    Attention, MLP, embeddings and head are split by tp; KV projections stop at kv_heads; experts go by tp, or whole over the expert ranks;
    norms and routers are repeated on every card.
    """
    matrix, rest = element_bytes(weights, shape)
    share = stage.share(shape)
    attention = (shape.layers - shape.linear_layers) * shape.full_attention_matrices() + shape.linear_layers * shape.linear_attention_matrices()
    repeated_kv = (kv_heads_on_card(shape, cut.tp) * cut.tp / shape.kv_heads - 1) if shape.kv_heads else 0
    attention += round((shape.layers - shape.linear_layers) * 2 * shape.hidden * shape.kv_width * max(0.0, repeated_kv))
    dense = (shape.layers - shape.moe_layers) * 3 * shape.hidden * shape.mlp_width + shape.moe_layers * shape.shared_matrices()
    experts = shape.moe_layers * shape.expert_matrices() / (cut.expert_ranks if cut.expert_parallel else cut.tp)
    layers = share * (((attention + dense) / cut.tp + experts) * matrix + shape.small_tensors() * rest)
    table_bytes = shape.vocab * shape.hidden * rest / cut.tp
    ends = table_bytes * ((1 if stage.first else 0) + (1 if stage.last and not (shape.tied and stage.first) else 0))
    vision = shape.vision_params * rest / cut.tp if stage.first else 0
    return round(layers + ends + vision) + rope_cache_bytes(shape)


def spread(weights: str) -> float:
    """Relative uncertainty of a weight size in this format."""
    return constant("weights_spread_quantised" if is_quantised(weights) else "weights_spread_bf16")
