"""The encoder of multilingual-e5-small as an ONNX graph: word vectors go in, one vector per text comes out.

Twelve layers of BERT whose matrices stay in 4 bits (MatMulNBits with integer arithmetic, each row quantised by itself, so that no text changes another's
vector), and the mean over real tokens. The word table stays outside: rows of it are looked up in the wheel's mapped file, which all processes share.
Knows the architecture. Does not know files or runtimes.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from consilium.embedding.e5_weights import BLOCK, Weights, paired
from consilium.embedding.onnx_file import FLOAT, INT32, Graph

INTEGER_ARITHMETIC: Final = 4
"""MatMulNBits' accuracy_level: activations become int8 by blocks of 32, as the wheel's own engine does it."""


def encoder(weights: Weights) -> bytes:
    """Return the model.

    words  in:  (texts, tokens, width) float32: word, position and type vectors, added
    mask   in:  (texts, tokens) int32: 1 for a token, 0 for padding
    means  out: (texts, width) float32: the mean over tokens, not normalised
    """
    graph = Graph()
    hidden = _normed(graph, weights, "words", "emb.ln")
    for layer in range(weights.layers):
        hidden = _layer(graph, weights, f"l{layer}", hidden)
    _mean(graph, hidden)
    width = weights.width
    return graph.model(
        {"words": (FLOAT, ("texts", "tokens", width)), "mask": (INT32, ("texts", "tokens"))},
        {"means": (FLOAT, ("texts", width))},
    )


def _layer(graph: Graph, weights: Weights, name: str, hidden: str) -> str:
    width, inner = weights.width, weights.inner
    query, key, value = (
        _dense(graph, weights, f"{name}.{letter}", hidden, (width, width)) for letter in "qkv"
    )
    seen = graph.node(
        "MultiHeadAttention",
        [query, key, value, "", "mask"],
        contrib=True,
        num_heads=weights.heads,
        scale=1 / math.sqrt(width / weights.heads),
    )
    told = _dense(graph, weights, f"{name}.ao", seen, (width, width))
    hidden = _normed(graph, weights, hidden, f"{name}.aln", told)
    wide = graph.node(
        "Gelu", [_dense(graph, weights, f"{name}.fi", hidden, (width, inner))], contrib=True
    )
    narrow = _dense(graph, weights, f"{name}.fo", wide, (inner, width))
    return _normed(graph, weights, hidden, f"{name}.oln", narrow)


def _dense(graph: Graph, weights: Weights, name: str, hidden: str, sizes: tuple[int, int]) -> str:
    wide, rows = sizes
    packed, scales = paired(weights.blocks(f"{name}.w", rows))
    inputs = [
        hidden,
        graph.tensor(packed, f"{name}.w"),
        graph.tensor(scales.reshape(-1), f"{name}.s"),
        "",
        "",
        graph.tensor(weights.plain(f"{name}.b"), f"{name}.b"),
    ]
    return graph.node(
        "MatMulNBits",
        inputs,
        contrib=True,
        K=wide,
        N=rows,
        bits=4,
        block_size=BLOCK,
        accuracy_level=INTEGER_ARITHMETIC,
    )


def _normed(graph: Graph, weights: Weights, hidden: str, name: str, added: str = "") -> str:
    scale, shift = (
        graph.tensor(weights.plain(f"{name}.{part}"), f"{name}.{part}") for part in "wb"
    )
    if added:
        return graph.node(
            "SkipLayerNormalization",
            [hidden, added, scale, shift],
            contrib=True,
            epsilon=weights.epsilon,
        )
    return graph.node(
        "LayerNormalization", [hidden, scale, shift], axis=-1, epsilon=weights.epsilon
    )


def _mean(graph: Graph, hidden: str) -> None:
    real = graph.node("Cast", ["mask"], to=FLOAT)
    row = graph.node("Unsqueeze", [real, graph.tensor(np.array([1]), "one")])
    total = graph.node("MatMul", [row, hidden])
    count = graph.node("ReduceSum", [row, graph.tensor(np.array([2]), "two")], keepdims=1)
    mean = graph.node("Div", [total, count])
    graph.node("Squeeze", [mean, "one"], output="means")
