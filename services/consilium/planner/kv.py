"""Bytes of the KV cache: per token, per request, and how many tokens a given room holds.

Knows paged KV, sliding windows and hybrid models whose linear layers keep a state per request. Does not know how much room there is (fit.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from consilium.planner.figures import constant, table
from consilium.planner.refusal import nearest, wrong
from consilium.planner.shapes import Shape
from consilium.planner.sharding import kv_heads_on_card

_ALIASES = {
    "auto": "bf16",
    "bfloat16": "bf16",
    "float16": "fp16",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "float32": "fp32",
}


@dataclass(frozen=True, slots=True)
class Room:
    """What a number of bytes holds: blocks, tokens as vLLM prints them, and requests of the asked length at once."""

    blocks: int
    block_tokens: int
    tokens: int
    concurrency: float


def dtype_named(name: str) -> str:
    """Return the KV type's own name, or raise invalid_request."""
    known = table("formats")["kv"]
    plain = _ALIASES.get(name.strip().lower(), name.strip().lower())
    if plain not in known:
        raise wrong(
            "kv_dtype",
            f"{name[:40]!r} is no KV type; the nearest is {nearest(plain, known)!r}. Known: {', '.join(known)}",
        )
    return plain


def element_bytes(kv_dtype: str) -> int:
    """Bytes of one KV element."""
    return int(table("formats")["kv"][kv_dtype]["bytes"])


def layer_token_bytes(shape: Shape, kv_dtype: str, tp: int = 1) -> int:
    """Bytes that one token leaves in one attention layer on one card: key and value."""
    return 2 * kv_heads_on_card(shape, tp) * shape.head_dim * element_bytes(kv_dtype)


def token_bytes(shape: Shape, kv_dtype: str, tp: int = 1) -> int:
    """Bytes that one token leaves on one card in all layers whose KV grows (pp = 1). Sliding-window layers are not counted: they stop growing."""
    return shape.full_layers * layer_token_bytes(shape, kv_dtype, tp)


def state_bytes(shape: Shape, tp: int = 1) -> int:
    """Bytes of the state that one request keeps in one linear layer: fp32 matrix and 16-bit convolution window."""
    matrix = shape.linear_value_heads // tp * shape.linear_key_dim * shape.linear_value_dim * 4
    return matrix + shape.linear_conv_width // tp * (shape.conv_kernel - 1) * 2


def hybrid_block_tokens(shape: Shape, kv_dtype: str, tp: int = 1) -> int:
    """Tokens in a block of a hybrid model: enough that one block of KV is as large as one state."""
    base = int(constant("block_tokens"))
    return (
        -(-math.ceil(state_bytes(shape, tp) / layer_token_bytes(shape, kv_dtype, tp)) // base)
        * base
    )


def request_bytes(
    shape: Shape,
    kv_dtype: str,
    tokens: int,
    tp: int = 1,
    *,
    prefix_caching: bool = True,
    layer_share: float = 1.0,
) -> int:
    """Bytes on one card that one request of `tokens` tokens needs; `layer_share` is the stage's part of the layers."""
    per_layer = layer_token_bytes(shape, kv_dtype, tp)
    if shape.is_hybrid:
        block = hybrid_block_tokens(shape, kv_dtype, tp)
        pages = shape.full_layers * -(-tokens // block) + shape.linear_layers * (
            2 if prefix_caching else 1
        )
        return round(pages * block * per_layer * layer_share)
    base = int(constant("block_tokens"))
    full = -(-tokens // base) * base
    windowed = min(full, -(-shape.window // base) * base + base) if shape.window_layers else 0
    return round(
        (shape.full_layers * full + shape.window_layers * windowed) * per_layer * layer_share
    )


def sequences_bytes(
    shape: Shape, kv_dtype: str, sequences: int, tp: int = 1, *, layer_share: float = 1.0
) -> int:
    """Return the least bytes of cache that a hybrid model needs on one card for `sequences` at once: one block each, or the engine refuses to start.

    0 for other models. Source: vLLM's check "max_num_seqs exceeds available Mamba cache blocks" (vllm-project/recipes#551).
    """
    if not shape.is_hybrid:
        return 0
    block = hybrid_block_tokens(shape, kv_dtype, tp) * layer_token_bytes(shape, kv_dtype, tp)
    return round(sequences * block * shape.full_layers * layer_share)


def room(
    shape: Shape,
    kv_dtype: str,
    available: float,
    length: int,
    tp: int = 1,
    *,
    prefix_caching: bool = True,
    layer_share: float = 1.0,
) -> Room:
    """Return what `available` bytes on one card hold, for requests of `length` tokens.

    Hybrid models follow vLLM's page groups: one page is block x bytes of one layer, a full layer takes ceil(length / block) pages and a linear layer
    one state (two with prefix caching). Reproduces printed figures exactly.
    """
    if available <= 0:
        return Room(0, int(constant("block_tokens")), 0, 0.0)
    if shape.is_hybrid:
        block = hybrid_block_tokens(shape, kv_dtype, tp)
        page = block * layer_token_bytes(shape, kv_dtype, tp)
        blocks = int(available // (page * shape.full_layers * layer_share))
        per_request = -(-length // block) + shape.linear_layers / shape.full_layers * (
            2 if prefix_caching else 1
        )
        concurrency = blocks / per_request
        return Room(blocks, block, int(concurrency * length), concurrency)
    base = int(constant("block_tokens"))
    if shape.window_layers:
        concurrency = available / request_bytes(
            shape, kv_dtype, length, tp, layer_share=layer_share
        )
        return Room(int(concurrency * length // base), base, int(concurrency * length), concurrency)
    blocks = int(available // (base * token_bytes(shape, kv_dtype, tp) * layer_share))
    return Room(blocks, base, blocks * base, blocks * base / length)
