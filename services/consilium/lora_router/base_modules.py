"""The modules of a base model that can hold an adapter, by name and width: from its config.json alone.

Knows decoders of the Qwen and Llama kind, with experts and linear attention, as transformers names their modules and vLLM 0.32 maps the names. Does not know adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.planner.models import format_of
from consilium.planner.shapes import Config, Shape, from_config

Widths = tuple[int, int]

_SEPARATE: Final = frozenset({"llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "yi"})
"""Dense kinds whose projections are modules of their own."""

_EXPERTS: Final = frozenset({"qwen2_moe", "qwen3_moe", "qwen3_next"})
_SEEING: Final = frozenset({"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
_MIXED: Final = frozenset({"qwen3_5", "qwen3_5_moe"})
_PLAIN_PREFIX: Final = ("model.",)
_INNER_PREFIX: Final = ("model.language_model.",)
_EITHER_PREFIX: Final = ("model.language_model.", "model.")


@dataclass(frozen=True, slots=True)
class Base:
    """What an adapter is compared with.

    modules    name without prefix, such as layers.0.self_attn.q_proj -> (in, out); experts one by one. Empty = a kind of model that is not known here
    prefixes   what stands before a name in a file that the engine maps to this model
    fused      whether the engine keeps experts together (3D)
    weights    format of the model's weights, such as bf16 or int4
    """

    name: str
    kind: str
    modules: Mapping[str, Widths]
    shape: Shape
    prefixes: tuple[str, ...] = _PLAIN_PREFIX
    fused: bool = False
    weights: str = "bf16"
    revision: str = ""

    def __str__(self) -> str:
        """Return it in a few words: name, layers, width, experts."""
        experts = f", {self.shape.experts} experts" if self.shape.experts else ""
        return f"{self.name} ({self.shape.layers} layers of width {self.shape.hidden}{experts})"


def of(config: Config, name: str, revision: str = "") -> Base:
    """Return the base that a config.json describes. Raises ConsiliumError(invalid_request) where it describes no decoder."""
    shape = from_config(config, name)
    inner = config.get("text_config")
    text: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
    kind = str(config.get("model_type") or text.get("model_type") or "").removesuffix("_text")
    sees = "vision_config" in config
    known = kind in _SEPARATE | _EXPERTS | _SEEING | _MIXED
    return Base(
        name=name,
        kind=kind,
        modules=dict(_modules(shape, text, kind)) if known else {},
        shape=shape,
        prefixes=_prefixes(kind, sees=sees),
        fused=kind == "qwen3_vl_moe" or (kind == "qwen3_5_moe" and sees),
        weights=format_of(config),
        revision=revision,
    )


def _prefixes(kind: str, *, sees: bool) -> tuple[str, ...]:
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        return _EITHER_PREFIX
    if kind in _SEEING:
        return _INNER_PREFIX
    if kind in _MIXED:
        return _INNER_PREFIX if sees else _EITHER_PREFIX
    return _PLAIN_PREFIX


def _modules(shape: Shape, text: Config, kind: str) -> Iterator[tuple[str, Widths]]:
    for layer in range(shape.layers):
        inside = f"layers.{layer}"
        attention = _linear(shape, kind) if _is_linear(text, layer, shape) else _attention(shape)
        for name, widths in attention.items():
            yield f"{inside}.{name}", widths
        if shape.is_moe and not _is_dense(text, layer):
            yield from _sparse(shape, f"{inside}.mlp")
        else:
            yield from _mlp(f"{inside}.mlp", shape.hidden, shape.mlp_width)


def _attention(shape: Shape) -> dict[str, Widths]:
    query = shape.q_width * (2 if shape.output_gate else 1)
    return {
        "self_attn.q_proj": (shape.hidden, query),
        "self_attn.k_proj": (shape.hidden, shape.kv_width),
        "self_attn.v_proj": (shape.hidden, shape.kv_width),
        "self_attn.o_proj": (shape.q_width, shape.hidden),
    }


def _linear(shape: Shape, kind: str) -> dict[str, Widths]:
    heads = shape.linear_value_heads
    value = heads * shape.linear_value_dim
    out = {"linear_attn.out_proj": (value, shape.hidden)}
    if kind == "qwen3_next":
        return out | {
            "linear_attn.in_proj_qkvz": (shape.hidden, shape.linear_conv_width + value),
            "linear_attn.in_proj_ba": (shape.hidden, 2 * heads),
        }
    return out | {
        "linear_attn.in_proj_qkv": (shape.hidden, shape.linear_conv_width),
        "linear_attn.in_proj_z": (shape.hidden, value),
        "linear_attn.in_proj_b": (shape.hidden, heads),
        "linear_attn.in_proj_a": (shape.hidden, heads),
    }


def _mlp(inside: str, hidden: int, width: int) -> Iterator[tuple[str, Widths]]:
    yield f"{inside}.gate_proj", (hidden, width)
    yield f"{inside}.up_proj", (hidden, width)
    yield f"{inside}.down_proj", (width, hidden)


def _sparse(shape: Shape, inside: str) -> Iterator[tuple[str, Widths]]:
    yield f"{inside}.gate", (shape.hidden, shape.experts)
    for expert in range(shape.experts):
        yield from _mlp(f"{inside}.experts.{expert}", shape.hidden, shape.expert_width)
    if shape.shared_width:
        yield f"{inside}.shared_expert_gate", (shape.hidden, 1)
        yield from _mlp(f"{inside}.shared_expert", shape.hidden, shape.shared_width)


def _is_linear(text: Config, layer: int, shape: Shape) -> bool:
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        return str(kinds[layer]) == "linear_attention"
    interval = text.get("full_attention_interval")
    return bool(shape.is_hybrid and interval and (layer + 1) % int(interval))


def _is_dense(text: Config, layer: int) -> bool:
    return layer in (text.get("mlp_only_layers") or []) or bool(
        (layer + 1) % int(text.get("decoder_sparse_step") or 1)
    )
