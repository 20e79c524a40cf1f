"""Bytes of a model's weights in each format, whole and per card.

Knows formats from data/formats.json. Does not know KV or what the engine adds beside the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from consilium.planner.figures import constant, table
from consilium.planner.refusal import nearest, wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut, Stage, experts_on_card, kv_heads_on_card

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
    "auto_awq": "int4",
    "auto_gptq": "int4",
    "auto-round": "int4",
    "auto_round": "int4",
    "moe_wna16": "int4",
    "bitsandbytes": "int4",
    "fbgemm_fp8": "fp8",
    "fp8_per_tensor": "fp8",
    "fp8_per_block": "fp8",
    "fp8_per_channel": "fp8",
    "deepseek_v4_fp8": "fp8",
    "mxfp8": "fp8",
    "modelopt_mxfp8": "fp8",
    "experts_int8": "int8",
    "int8_per_channel_weight_only": "int8",
    "nvfp4_per_token": "nvfp4",
    "gpt_oss_mxfp4": "mxfp4",
}
_SAID_BY_THE_FILE = frozenset(
    {
        "compressed-tensors",
        "quark",
        "inc",
        "torchao",
        "humming",
        "modelopt_mixed",
        "online",
        "gguf",
        "fp_quant",
    }
)


def format_named(name: str) -> str:
    """Return the format's own name, or raise invalid_request with the nearest one."""
    known = table("formats")["formats"]
    plain = name.strip().lower()
    plain = _ALIASES.get(plain, plain)
    if plain in known:
        return plain
    raise wrong(
        "weights",
        f"{name[:40]!r} is no known format; the nearest is {nearest(plain, known)!r}. Known: {', '.join(known)}",
    )


def of_method(method: str, checkpoint: str) -> str:
    """Return the format that vLLM's quantisation method (vllm 0.32, QuantizationMethods) gives to a checkpoint of the format `checkpoint`.

    A quantised checkpoint stays what its config.json says: `modelopt` is fp8 for one file and nvfp4 for another. Raises invalid_request for a word that
    is neither a method nor a format.
    """
    plain = method.strip().lower()
    if plain in _SAID_BY_THE_FILE:
        return checkpoint
    named = format_named(plain)
    return checkpoint if is_quantised(format_named(checkpoint)) else named


@dataclass(frozen=True, slots=True)
class Elements:
    """Bytes per element of each kind of tensor in one format."""

    attention: float
    mlp: float
    shared: float
    head: float
    rest: float


def elements(weights: str, shape: Shape) -> Elements:
    """Return bytes per element of a format for this shape. For a GGUF all are the file's average; hybrid models keep some parts wider."""
    entry = table("formats")["formats"][weights]
    if "file_bits" in entry:
        return Elements(*([entry["file_bits"] / 8] * 5))
    matrix, rest = float(entry["matrix_bytes"]), float(entry["rest_bytes"])
    wider = entry.get("hybrid", {}) if shape.is_hybrid else {}
    return Elements(
        wider.get("attention_bytes", matrix),
        matrix,
        wider.get("shared_bytes", matrix),
        wider.get("head_bytes", rest),
        rest,
    )


def attention_matrices(shape: Shape) -> int:
    """Elements of the attention matrices of all layers, full and linear."""
    return (
        shape.layers - shape.linear_layers
    ) * shape.full_attention_matrices() + shape.linear_layers * shape.linear_attention_matrices()


def dense_matrices(shape: Shape) -> int:
    """Elements of the MLP matrices of the layers without experts."""
    return (shape.layers - shape.moe_layers) * 3 * shape.hidden * shape.mlp_width


def is_quantised(weights: str) -> bool:
    """Whether the matrices hold less than 16 bits per element."""
    return weights not in {"bf16", "fp32", "gguf:f16"}


def checkpoint_bytes(shape: Shape, weights: str) -> int:
    """Bytes of the whole checkpoint, vision tower included, without a drafting head."""
    per = elements(weights, shape)
    experts = shape.moe_layers * shape.expert_matrices()
    shared = shape.moe_layers * shape.shared_matrices()
    table_size = shape.vocab * shape.hidden
    others = table_size + shape.small_tensors() + shape.vision_params
    head = 0.0 if shape.tied else table_size * per.head
    return round(
        attention_matrices(shape) * per.attention
        + (dense_matrices(shape) + experts) * per.mlp
        + shared * per.shared
        + head
        + others * per.rest
    )


def rope_cache_bytes(shape: Shape, positions: int | None = None) -> int:
    """Bytes of the table of sines and cosines: positions x rotary width x 2 bytes."""
    return round((positions or shape.max_positions) * shape.head_dim * shape.rotary_share * 2)


def card_bytes(shape: Shape, weights: str, cut: Cut, stage: Stage) -> int:
    """Bytes of weights on one card of one stage, rope cache included.

    Attention, MLP, embeddings and head are split by tp; KV projections stop at kv_heads; experts go by tp, or whole over the expert ranks;
    norms and routers are repeated on every card.
    """
    per = elements(weights, shape)
    share = stage.share(shape)
    attention = attention_matrices(shape)
    repeated_kv = (
        (kv_heads_on_card(shape, cut.tp) * cut.tp / shape.kv_heads - 1) if shape.kv_heads else 0
    )
    attention += round(
        (shape.layers - shape.linear_layers)
        * 2
        * shape.hidden
        * shape.kv_width
        * max(0.0, repeated_kv)
    )
    one_expert = 3 * shape.hidden * shape.expert_width / (1 if cut.expert_parallel else cut.tp)
    experts = shape.moe_layers * experts_on_card(shape, cut) * one_expert
    split = (
        attention * per.attention
        + dense_matrices(shape) * per.mlp
        + shape.moe_layers * shape.shared_matrices() * per.shared
    ) / cut.tp
    layers = share * (split + experts * per.mlp + shape.small_tensors() * per.rest)
    one = shape.vocab * shape.hidden / cut.tp
    ends = one * (
        (per.rest if stage.first else 0.0)
        + (
            (per.rest if shape.tied else per.head)
            if stage.last and not (shape.tied and stage.first)
            else 0.0
        )
    )
    vision = shape.vision_params * per.rest / cut.tp if stage.first else 0
    return round(layers + ends + vision) + rope_cache_bytes(shape)


def spread(weights: str) -> float:
    """Relative uncertainty of a weight size in this format."""
    return constant("weights_spread_quantised" if is_quantised(weights) else "weights_spread_bf16")
