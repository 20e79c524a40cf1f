"""Shapes of models: what config.json says that decides memory and speed, and exact parameter counts from it.

Knows dense, mixture-of-experts and hybrid (linear attention) decoders of the Qwen and Llama kind and Qwen's vision towers. Does not know tensors'
real bytes (weights.py) or engines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.planner.figures import constant
from consilium.planner.refusal import wrong
from consilium.planner.vision import vision_params

Config = Mapping[str, Any]
MOST_LAYERS: Final = 1000
UNKNOWN_KIND: Final = "model_type"
"""Field of the refusal of a model that may well run, but whose memory is not known here."""

_GATED: Final = frozenset(
    {
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "qwen3_next",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_text",
        "qwen3_5_moe_text",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen2_5_vl_text",
        "qwen3_vl",
        "qwen3_vl_text",
        "qwen3_vl_moe",
        "qwen3_vl_moe_text",
        "phi3",
        "yi",
        "gemma",
        "gemma2",
        "smollm3",
        "olmo2",
        "ministral",
    }
)
_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
_QK_NORM: Final = ("qwen3", "olmo2")
_QKV_BIAS: Final = ("qwen2",)
_NOT_KNOWN: Final = {
    "kv_lora_rank": "multi-head latent attention",
    "mamba_num_heads": "Mamba layers",
    "hybrid_override_pattern": "Mamba layers",
    "block_types": "recurrent blocks",
    "interleave_moe_layer_step": "experts beside a dense MLP of another width",
    "num_kv_shared_layers": "layers that share their KV",
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One decoder. Widths in elements, counts in pieces. Zero means "has none"."""

    name: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    max_positions: int
    mlp_width: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    shared_width: int = 0
    dense_layers: int = 0
    linear_layers: int = 0
    window_layers: int = 0
    window: int = 0
    output_gate: bool = False
    linear_key_heads: int = 0
    linear_value_heads: int = 0
    linear_key_dim: int = 0
    linear_value_dim: int = 0
    conv_kernel: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 0.0
    rotary_share: float = 1.0
    vision_params: int = 0
    dual_chunk: bool = False
    yarn_from: int = 0

    @property
    def full_layers(self) -> int:
        """Layers whose KV grows with every token."""
        return self.layers - self.linear_layers - self.window_layers

    @property
    def q_width(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Width of all key heads (the values are as wide)."""
        return self.kv_heads * self.head_dim

    @property
    def is_moe(self) -> bool:
        """Whether a router chooses experts."""
        return self.experts > 0

    @property
    def is_hybrid(self) -> bool:
        """Whether some layers keep a state of fixed size instead of KV."""
        return self.linear_layers > 0

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.is_moe else 0

    @property
    def active_width(self) -> int:
        """Widest MLP that one token runs through in a layer."""
        routed = self.experts_per_token * self.expert_width + self.shared_width
        return max(routed, self.mlp_width if not self.is_moe or self.dense_layers else 0)

    @property
    def linear_conv_width(self) -> int:
        """Channels of the convolution in a linear-attention layer."""
        return (
            2 * self.linear_key_heads * self.linear_key_dim
            + self.linear_value_heads * self.linear_value_dim
        )

    def full_attention_matrices(self) -> int:
        """Elements of the projection matrices of one attention layer."""
        query = self.q_width * (2 if self.output_gate else 1)
        return self.hidden * (query + 2 * self.kv_width) + self.q_width * self.hidden

    def linear_attention_matrices(self) -> int:
        """Elements of the large matrices of one linear-attention layer."""
        value = self.linear_value_heads * self.linear_value_dim
        return self.hidden * (self.linear_conv_width + value) + value * self.hidden

    def linear_attention_rest(self) -> int:
        """Small tensors of one linear-attention layer: gates, convolution, decay, norm."""
        return (
            self.hidden * 2 * self.linear_value_heads
            + self.linear_conv_width * self.conv_kernel
            + 2 * self.linear_value_heads
            + self.linear_value_dim
        )

    def expert_matrices(self) -> int:
        """Elements of all routed experts of one layer."""
        return self.experts * 3 * self.hidden * self.expert_width

    def shared_matrices(self) -> int:
        """Elements of the shared expert of one layer."""
        return 3 * self.hidden * self.shared_width

    def matrices(self) -> int:
        """Elements of all attention and MLP matrices: what a quantiser may shrink."""
        attention = (
            self.layers - self.linear_layers
        ) * self.full_attention_matrices() + self.linear_layers * self.linear_attention_matrices()
        dense = (self.layers - self.moe_layers) * 3 * self.hidden * self.mlp_width
        return (
            attention + dense + self.moe_layers * (self.expert_matrices() + self.shared_matrices())
        )

    def embeddings(self) -> int:
        """Elements of the embedding table and, when it is not tied, of the head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    def small_tensors(self) -> int:
        """Norms, biases, routers, gates: everything that is neither matrix nor embedding."""
        norms = self.layers * 2 * self.hidden + self.hidden
        attention = self.layers - self.linear_layers
        norms += attention * 2 * self.head_dim if self.qk_norm else 0
        bias = attention * (self.q_width + 2 * self.kv_width) if self.qkv_bias else 0
        router = self.moe_layers * self.hidden * self.experts + (
            self.moe_layers * self.hidden if self.shared_width else 0
        )
        return norms + bias + router + self.linear_layers * self.linear_attention_rest()

    def text_params(self) -> int:
        """Exact number of parameters of the decoder."""
        return self.matrices() + self.embeddings() + self.small_tensors()

    def params(self) -> int:
        """Parameters with the vision tower."""
        return self.text_params() + self.vision_params

    def active_params(self) -> int:
        """Parameters that one token touches, embeddings included, as model cards count them."""
        idle = (
            self.moe_layers
            * (self.experts - self.experts_per_token)
            * 3
            * self.hidden
            * self.expert_width
        )
        return self.text_params() - idle


def from_config(config: Config, name: str = "") -> Shape:
    """Return the shape that a config.json describes.

    config  the parsed file; a vision-language file with `text_config` is understood
    Raises invalid_request with what is missing or not known.
    """
    if not isinstance(config, Mapping):
        raise wrong(
            "config.json", "it is not a JSON object; give the config.json of a language model"
        )
    _refuse_foreign(config)
    text: Config = {
        **{k: v for k, v in config.items() if k in {"tie_word_embeddings", "model_type"}},
        **_object(config.get("text_config", config)),
    }
    for key, kind in _NOT_KNOWN.items():
        if text.get(key) not in (None, 0, []):
            raise wrong(
                UNKNOWN_KIND,
                f"{key} means {kind}, whose memory this planner does not know; models of the Qwen and Llama kind are known",
            )
    family = str(text.get("model_type") or config.get("model_type") or "")
    if (
        family
        and family not in _GATED
        and not {"intermediate_size", "num_key_value_heads"} <= set(text)
    ):
        raise wrong(
            UNKNOWN_KIND,
            f"model_type {family!r} is not a decoder of the Qwen or Llama kind, and the file does not say enough to plan it",
        )
    layers, hidden, heads = (
        _number(text, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    if layers > MOST_LAYERS:
        raise wrong(
            "config.json",
            f"num_hidden_layers is {layers}, and at most {MOST_LAYERS} are planned; the deepest known models have about 130",
        )
    head_dim = _number(text, "head_dim", hidden // heads)
    linear, windowed = _layer_kinds(text, layers)
    if linear:
        _check_linear(text, layers - linear - windowed)
    experts = _first(text, _EXPERTS)
    expert_width = _first(text, ("moe_intermediate_size",)) or (
        _first(text, ("intermediate_size",)) if experts else 0
    )
    rope = {**_object(text.get("rope_scaling")), **_object(text.get("rope_parameters"))}
    return Shape(
        name=name or str(config.get("_name_or_path") or family or "model"),
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_number(text, "num_key_value_heads", heads),
        head_dim=head_dim,
        vocab=_number(text, "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", False)),
        max_positions=_number(
            text, "max_position_embeddings", int(constant("max_positions_default"))
        ),
        mlp_width=_first(text, ("intermediate_size",))
        if not experts or _dense_layers(text, layers)
        else 0,
        experts=experts,
        experts_per_token=_first(
            text, ("num_experts_per_tok", "experts_per_token", "top_k_experts")
        )
        if experts
        else 0,
        expert_width=expert_width if experts else 0,
        shared_width=(
            _first(text, ("shared_expert_intermediate_size",))
            or _first(text, ("n_shared_experts",)) * expert_width
        )
        if experts
        else 0,
        dense_layers=_dense_layers(text, layers) if experts else 0,
        linear_layers=linear,
        window_layers=windowed,
        window=_first(text, ("sliding_window",)) if windowed else 0,
        output_gate=bool(
            text.get("attn_output_gate", family.startswith(("qwen3_next", "qwen3_5")))
        ),
        linear_key_heads=_first(text, ("linear_num_key_heads",)),
        linear_value_heads=_first(text, ("linear_num_value_heads",)),
        linear_key_dim=_first(text, ("linear_key_head_dim",)),
        linear_value_dim=_first(text, ("linear_value_head_dim",)),
        conv_kernel=_first(text, ("linear_conv_kernel_dim",)),
        qkv_bias=bool(text.get("attention_bias", False)) or family.startswith(_QKV_BIAS),
        qk_norm=family.startswith(_QK_NORM),
        rope_theta=_real(
            "rope_theta",
            rope.get("rope_theta") or text.get("rope_theta") or constant("rope_theta_default"),
            1e12,
        ),
        rotary_share=_real(
            "partial_rotary_factor",
            rope.get("partial_rotary_factor")
            or text.get("partial_rotary_factor")
            or (constant("hybrid_rotary_share") if linear else 1.0),
            1.0,
        ),
        vision_params=vision_params(config),
        dual_chunk=bool(text.get("dual_chunk_attention_config")),
        yarn_from=_first(rope, ("original_max_position_embeddings",))
        if str(rope.get("rope_type") or rope.get("type")) == "yarn"
        else 0,
    )


def outline(config: Config, name: str) -> Shape:
    """Return what any decoder's file says: layers, heads and widths, which decide into how many parts it can be cut. Not enough to count bytes.

    For models of a kind that `from_config` does not know. Raises invalid_request where even that is missing.
    """
    text: Config = {**config, **_object(config.get("text_config"))}
    layers, hidden, heads = (
        _number(text, key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    experts = _first(text, _EXPERTS)
    width = _first(text, ("intermediate_size",))
    return Shape(
        name=name,
        family=str(text.get("model_type") or ""),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_first(text, ("num_key_value_heads",)) or heads,
        head_dim=_first(text, ("head_dim",)) or max(1, hidden // heads),
        vocab=_first(text, ("vocab_size",)),
        tied=bool(text.get("tie_word_embeddings", False)),
        max_positions=_first(text, ("max_position_embeddings",)),
        mlp_width=0 if experts else width,
        experts=experts,
        expert_width=(_first(text, ("moe_intermediate_size",)) or width) if experts else 0,
    )


def _check_linear(text: Config, full: int) -> None:
    """Raise invalid_request for a hybrid whose file does not say enough."""
    if full < 1:
        raise wrong(
            "config.json",
            "layer_types names no full attention layer, and the planner counts the KV of those; give the whole config.json",
        )
    for key in (
        "linear_num_key_heads",
        "linear_num_value_heads",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "linear_conv_kernel_dim",
    ):
        _number(text, key)


def _refuse_foreign(config: Config) -> None:
    if "_diffusers_version" in config or str(config.get("_class_name", "")).endswith(
        ("Pipeline", "Model", "Model2D", "KL")
    ):
        raise wrong(
            "config.json",
            "this describes a diffusion model; the planner knows language models, such as the config.json of Qwen3-8B",
        )
    if config.get("is_encoder_decoder") is True:
        raise wrong(
            "config.json",
            "this describes an encoder-decoder; the planner knows decoders, such as the config.json of Qwen3-8B",
        )


def _object(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _number(text: Config, key: str, default: int | None = None) -> int:
    value = text.get(key)
    if value is None:
        if default is None:
            raise wrong(
                "config.json", f"{key} is missing; give the whole config.json of a language model"
            )
        value = default
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 < value < 1 << 40
        or value != int(value)
    ):
        raise wrong(
            "config.json", f"{key} is {str(value)[:40]!r}, and a whole number above 0 is needed"
        )
    return int(value)


def _real(key: str, value: object, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise wrong(
            "config.json",
            f"{key} is {str(value)[:40]!r}, and a number above 0 and up to {most:g} is needed",
        )
    return float(value)


def _first(text: Config, keys: tuple[str, ...]) -> int:
    for key in keys:
        if text.get(key):
            return _number(text, key)
    return 0


def _dense_layers(text: Config, layers: int) -> int:
    listed = text.get("mlp_only_layers") or []
    step = text.get("decoder_sparse_step") or 1
    if not isinstance(listed, list) or not isinstance(step, int) or step < 1:
        raise wrong(
            "config.json",
            "mlp_only_layers is a list of layer numbers and decoder_sparse_step a whole number above 0",
        )
    first = _first(text, ("first_k_dense_replace",))
    return sum(
        1 for layer in range(layers) if layer < first or layer in listed or (layer + 1) % step
    )


def _layer_kinds(text: Config, layers: int) -> tuple[int, int]:
    """Return how many layers are linear and how many look through a sliding window."""
    kinds = text.get("layer_types")
    if isinstance(kinds, list) and kinds:
        if len(kinds) < layers:
            raise wrong(
                "config.json",
                f"layer_types names {len(kinds)} layers and num_hidden_layers is {layers}; both must agree",
            )
        named = [str(kind) for kind in kinds[:layers]]
        return named.count("linear_attention"), named.count("sliding_attention") if text.get(
            "sliding_window"
        ) else 0
    interval = (
        _first(text, ("full_attention_interval",)) if text.get("linear_num_value_heads") else 0
    )
    if interval:
        return layers - layers // interval, 0
    return 0, 0
