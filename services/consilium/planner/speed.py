"""How fast: tokens per second by the roofline that holds, on GPUs and on server processors.

One step reads the weights it touches and the KV of every request, computes, talks over the links, and pays a fixed price per layer. Constants come
from data/constants.json; data/speed_points.json holds the measurements they were fitted to and those they were only compared with. Does not know
speculative decoding, prefix caches or other people's load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consilium.planner import kv, weights
from consilium.planner.cards import Card, Cpu
from consilium.planner.figures import constant
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut

_GB: Final = 1e9
_TERA: Final = 1e12
_MICRO: Final = 1 / 10**6
_LEAST: Final = 1 / 1000  # TFLOPS of a card that is not in the table: nothing divides by zero


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second of all streams together.

    likely, low, high  the forecast and its honest range
    ceiling            what the hardware cannot exceed: bytes over data-sheet bandwidth, or flops over data-sheet throughput
    bound              which roofline holds: memory, compute, links or fixed costs
    seconds            one step (decode) or the whole prompt (prefill)
    """

    likely: float
    low: float
    high: float
    ceiling: float
    bound: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """What runs: requests at once, tokens in each one's cache, formats.

    file_bytes  replaces the formula where a file's size is known
    host_bytes  weights per card that stay in host memory and cross the bus in every step
    """

    batch: int = 1
    context: int = 1024
    weights: str = "bf16"
    kv_dtype: str = "bf16"
    file_bytes: int = 0
    eager: bool = False
    nodes: int = 1
    host_bytes: int = 0


def experts_touched(shape: Shape, batch: int) -> float:
    """Return how many different experts of a layer `batch` tokens reach, if the router spreads evenly: E (1 - (1 - k/E)^batch)."""
    return (
        shape.experts * (1 - (1 - shape.experts_per_token / shape.experts) ** batch)
        if shape.is_moe
        else 0.0
    )


def weight_bytes_read(shape: Shape, load: Load) -> float:
    """Return bytes of weights that one decode step reads: matrices, the experts that are reached, the head; not the embedding table."""
    per = weights.elements(load.weights, shape)
    if load.file_bytes:
        per = weights.Elements(*([load.file_bytes / shape.params()] * 5))
    expert = 3 * shape.hidden * shape.expert_width * shape.moe_layers
    fixed = (
        weights.attention_matrices(shape) * per.attention
        + weights.dense_matrices(shape) * per.mlp
        + shape.moe_layers * shape.shared_matrices() * per.shared
    )
    head = shape.vocab * shape.hidden * (per.rest if shape.tied else per.head)
    return (
        fixed
        + experts_touched(shape, load.batch) * expert * per.mlp
        + head
        + shape.small_tensors() * per.rest
    )


def kv_bytes_read(shape: Shape, load: Load, tp: int) -> float:
    """Return bytes of KV and states that one decode step reads on one card."""
    per_layer = kv.layer_token_bytes(shape, load.kv_dtype, tp)
    windowed = shape.window_layers * min(load.context, shape.window or load.context)
    states = 2 * shape.linear_layers * kv.state_bytes(shape, tp) if shape.is_hybrid else 0
    return load.batch * ((shape.full_layers * load.context + windowed) * per_layer + states)


def flops_per_token(shape: Shape, context: float) -> tuple[float, float]:
    """Return (matrix, attention) floating point operations for one token with `context` tokens before it."""
    idle = (
        shape.moe_layers
        * (shape.experts - shape.experts_per_token)
        * 3
        * shape.hidden
        * shape.expert_width
    )
    return 2.0 * (shape.matrices() - idle), 4.0 * shape.full_layers * shape.q_width * context


def compute_tflops(card: Card, name: str) -> float:
    """Return the card's dense throughput for a weight format in TFLOPS; weight-only 4-bit computes in 16 bits."""
    if name == "fp8" and card.fp8_tflops:
        return card.fp8_tflops
    if name == "nvfp4" and card.fp4_tflops:
        return card.fp4_tflops
    return card.bf16_tflops


def ceiling_tflops(card: Card, name: str) -> float:
    """Return the throughput that no kernel can exceed: 16-bit accumulation where the card has it twice as fast, 8-bit integers for GGUF files."""
    whole = max(compute_tflops(card, name), card.fp16_accumulate_tflops)
    return whole * 2 if name.startswith("gguf:") and name != "gguf:f16" else whole


def _reduce_seconds(shape: Shape, card: Card, cut: Cut, tokens: int, nodes: int) -> float:
    """Seconds of the two all-reduces per layer of one step."""
    if cut.tp == 1:
        return 0.0
    latency = "network" if nodes > 1 else "nvlink" if "NVLink" in card.link else "pcie"
    bandwidth = (constant("speed_network_gb_s") if nodes > 1 else max(card.link_gb_s, 1.0)) * _GB
    moved = tokens * shape.hidden * 2 * 2 * (cut.tp - 1) / cut.tp
    return 2 * shape.layers * (constant(f"speed_reduce_{latency}_us") * _MICRO + moved / bandwidth)


def _fixed_seconds(shape: Shape, load: Load) -> float:
    per_layer = (
        constant("speed_layer_us")
        + (constant("speed_moe_layer_us") if shape.is_moe else 0)
        + (constant("speed_hybrid_layer_us") if shape.is_hybrid else 0)
    )
    factor = constant("speed_eager_factor") if load.eager else 1.0
    return (shape.layers * per_layer * factor + load.batch * constant("speed_sequence_us")) * _MICRO


def decode(shape: Shape, card: Card, cut: Cut, load: Load) -> Rate | None:
    """Return tokens/s of one engine while it writes; None when the card's bandwidth is not known.

    Pipeline stages work one after the other for one stream, and side by side for as many streams as there are stages.
    """
    if not card.bandwidth_gb_s:
        return None
    read = weight_bytes_read(shape, load) / cut.tp + kv_bytes_read(shape, load, cut.tp)
    matrix, attention = flops_per_token(shape, load.context)
    flops = load.batch * (matrix + attention + 2.0 * shape.vocab * shape.hidden) / cut.tp
    memory = read / (card.bandwidth_gb_s * _GB)
    compute = flops / (max(compute_tflops(card, load.weights), _LEAST) * _TERA)
    busy = max(memory / constant("speed_memory_share"), compute / constant(_share_name(shape)))
    links = _reduce_seconds(shape, card, cut, load.batch, load.nodes)
    fixed = _fixed_seconds(shape, load)
    overlap = min(cut.pp, load.batch)
    ceiling = (
        load.batch
        * overlap
        / max(memory, flops / (max(ceiling_tflops(card, load.weights), _LEAST) * _TERA))
    )
    bus = load.host_bytes / (constant("host_bus_gb_s") * _GB)
    step = (busy + bus + links + fixed) / overlap
    names = {
        "weights over the bus": bus,
        "memory bandwidth": memory / constant("speed_memory_share"),
        "compute": compute / constant(_share_name(shape)),
        "links between cards": links,
        "fixed cost per layer": fixed,
    }
    return _rate(load.batch / step, ceiling, max(names, key=lambda name: names[name]), step)


def _share_name(shape: Shape) -> str:
    return "speed_moe_compute_share" if shape.is_moe else "speed_compute_share"


def _rate(likely: float, ceiling: float, bound: str, seconds: float) -> Rate:
    likely = min(likely, ceiling)
    return Rate(
        likely,
        likely * constant("speed_low_factor"),
        min(likely * constant("speed_high_factor"), ceiling),
        ceiling,
        bound,
        seconds,
    )


def prefill(shape: Shape, card: Card, cut: Cut, load: Load) -> Rate | None:
    """Return tokens/s while one prompt of `load.context` tokens is read, and the seconds it takes: the time to its first token."""
    throughput = compute_tflops(card, load.weights)
    if not throughput:
        return None
    length = load.context
    matrix, attention = flops_per_token(shape, length / 2)
    peak = throughput * _TERA * cut.tp
    once = (
        weight_bytes_read(shape, Load(length, 1, load.weights, load.kv_dtype, load.file_bytes))
        / cut.tp
        / (card.bandwidth_gb_s * _GB)
    )
    dense = length * matrix / (peak * constant(_share_name(shape)))
    looking = (
        length
        * attention
        / (card.bf16_tflops * _TERA * cut.tp * constant("speed_attention_compute_share"))
    )
    chunks = -(-length // int(constant("speed_chunk_tokens")))
    links = _reduce_seconds(shape, card, cut, length, load.nodes)
    fixed = chunks * _fixed_seconds(shape, Load(1, 1, load.weights, eager=load.eager))
    seconds = max(dense + looking, once) + links + fixed
    ceiling = ceiling_tflops(card, load.weights) * _TERA * cut.tp / (matrix + attention)
    parts = {
        "compute of the matrices": dense,
        "attention over the text": looking,
        "memory bandwidth": once,
        "links between cards": links,
    }
    return _rate(length / seconds, ceiling, max(parts, key=lambda name: parts[name]), seconds)


def decode_on_cpu(shape: Shape, cpu: Cpu, load: Load) -> Rate:
    """Return tokens/s of an engine on processors. Two sockets without NUMA placement deliver less than one; the range's upper end has it."""
    read = weight_bytes_read(shape, load) + kv_bytes_read(shape, load, 1)
    one = cpu.bandwidth_gb_s / cpu.sockets * _GB
    used = (
        one
        * constant("cpu_memory_share")
        * (constant("cpu_second_socket_share") if cpu.sockets > 1 else 1.0)
    )
    matrix, attention = flops_per_token(shape, load.context)
    peak = cpu_flops(cpu)
    compute = load.batch * (matrix + attention) / (peak * constant("cpu_compute_share"))
    fixed = shape.layers * constant("cpu_layer_us") * _MICRO
    step = max(read / used, compute) + fixed
    ceiling = load.batch / max(
        read / (cpu.bandwidth_gb_s * _GB), load.batch * (matrix + attention) / peak
    )
    rate = _rate(
        load.batch / step, ceiling, "memory bandwidth" if read / used > compute else "compute", step
    )
    placed = load.batch / (
        max(read / (cpu.bandwidth_gb_s * _GB * constant("cpu_memory_share")), compute) + fixed
    )
    return Rate(
        rate.likely,
        rate.low,
        min(ceiling, max(rate.high, placed)),
        rate.ceiling,
        rate.bound,
        rate.seconds,
    )


def prefill_on_cpu(shape: Shape, cpu: Cpu, load: Load) -> Rate:
    """Return tokens/s while a processor reads one prompt: compute decides, so AMX shows here."""
    matrix, attention = flops_per_token(shape, load.context / 2)
    peak = cpu_flops(cpu)
    seconds = load.context * (matrix + attention) / (peak * constant("cpu_compute_share"))
    return _rate(load.context / seconds, peak / (matrix + attention), "compute", seconds)


def cpu_flops(cpu: Cpu) -> float:
    """Return the peak floating point operations per second of all cores for 16-bit matrices."""
    per_cycle = constant(
        "cpu_flops_amx" if cpu.amx else "cpu_flops_avx512" if cpu.avx512 else "cpu_flops_plain"
    )
    return cpu.cores * cpu.sockets * cpu.ghz * 1e9 * per_cycle
