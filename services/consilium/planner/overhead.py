"""What an engine takes beside weights, slots and KV: CUDA and NCCL, activation and sampler peaks, graphs; and vLLM's defaults by version and card.

Constants come from data/constants.json. Two boots of one set-up differ by half a GiB and more: every figure carries a low and a high.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from consilium.planner.figures import GIB, MIB, constant, table
from consilium.planner.shapes import Shape
from consilium.planner.sharding import Cut
from consilium.planner.weights import is_quantised

DEFAULT_VERSION = "0.32.0"


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the bill, in bytes on one card."""

    name: str
    low: float
    likely: float
    high: float
    why: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests at once and tokens per step."""

    sequences: int
    tokens: int


def version_key(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version such as 0.32.0, ~0.8.5 or 0.2x; an x counts as 2, a range by its first part."""
    found = re.search(
        r"(\d+)\.(\d+|\d*x)", version.replace("x", "2") if "x" in version else version
    )
    return (int(found[1]), int(found[2])) if found else version_key(DEFAULT_VERSION)


def is_version(version: str) -> bool:
    """Whether a word is a version of vLLM: 0.8.5, 0.32.0rc1, ~0.2x; not a word without numbers, and none above 9."""
    return re.search(r"\d+\.(\d+|\d*x)", version) is not None and version_key(version) <= (9, 0)


def default_utilisation(version: str) -> float:
    """Return vLLM's own gpu_memory_utilization."""
    return constant(
        "utilisation_default"
        if version_key(version) >= (0, 22)
        else "utilisation_default_before_0_22"
    )


def runner_of(version: str, shape: Shape, weights: str) -> str:
    """Return V1 or V2: which model runner, and so which sampler peak, a version uses."""
    key = version_key(version)
    if key >= (0, 32):
        return "V2"
    plain = (
        shape.family.startswith("qwen3")
        and not shape.is_moe
        and not shape.is_hybrid
        and not is_quantised(weights)
    )
    return "V2" if key >= (0, 22) and plain else "V1"


def default_batch(total_gib: float, card: str = "") -> Batch:
    """Return vLLM's defaults of an API server: max_num_seqs and max_num_batched_tokens by size of the card (data/engine_defaults.json)."""
    row = next(
        row
        for row in table("engine_defaults")["rows"]
        if total_gib >= row["least_gib"] and not any(name in card for name in row["not_for"])
    )
    return Batch(int(row["sequences"]), int(row["tokens"]))


def graphs_counted(version: str) -> bool:
    """Whether the profiler takes CUDA graphs out of the budget (since 0.21, vLLM source), or they come on top of it."""
    return version_key(version) >= (0, 21)


def activation_peak(shape: Shape, cut: Cut, batch_tokens: int) -> int:
    """Bytes of the widest moment of one step: MLP of every token plus three hidden states, 16 bits."""
    return round(batch_tokens * (3 * shape.active_width / cut.tp + 3 * shape.hidden) * 2)


def sampler_peak(shape: Shape, sequences: int, runner: str) -> int:
    """Bytes of logits and their copies when all sequences sample at once."""
    per_entry = {"V0": 0.0, "V1": constant("sampler_v1_bytes"), "V2": constant("sampler_v2_bytes")}[
        runner
    ]
    return round(sequences * shape.vocab * per_entry)


def graph_bytes(shape: Shape, cut: Cut) -> float:
    """Bytes of captured CUDA graphs on one card, likely value; the pool holds the activations of one rank."""
    return (
        constant("graph_base_gib")
        + constant("graph_per_layer_width_gib") * shape.layers * shape.hidden / cut.tp
    ) * GIB


def parts(
    shape: Shape, cut: Cut, batch: Batch, *, runner: str, version: str, eager: bool
) -> tuple[Part, ...]:
    """Return the overhead lines of one GPU card: CUDA and NCCL, peak, graphs, boot-to-boot spread."""
    fixed = constant("non_torch_many_gib" if cut.cards * cut.dp > 1 else "non_torch_one_gib") * GIB
    mlp, sampler = (
        activation_peak(shape, cut, batch.tokens),
        sampler_peak(shape, batch.sequences, runner),
    )
    vision = constant("vision_encoder_peak_gib") * GIB if shape.vision_params else 0.0
    peak = max(mlp, sampler, vision)
    ruled = (
        f"sampler of {batch.sequences} sequences"
        if peak == sampler
        else f"one step of {batch.tokens} tokens"
        if peak == mlp
        else "vision encoder"
    )
    spread = constant("boot_spread_gib") * GIB
    lines = [
        Part(
            "CUDA and NCCL",
            constant("non_torch_spread_low") * fixed,
            fixed,
            constant("non_torch_spread_high") * fixed,
            "memory outside PyTorch" + (", NCCL buffers" if cut.cards > 1 else ""),
        ),
        Part(
            "peak of a step",
            constant("peak_spread_low") * peak,
            peak,
            constant("peak_spread_high") * peak,
            f"largest moment: {ruled}",
        ),
    ]
    if not eager:
        graphs = graph_bytes(shape, cut)
        likely = graphs if graphs_counted(version) else 0.0
        high = graphs * constant("graph_high_factor") if likely else 0.0
        lines.append(
            Part(
                "CUDA graphs",
                0.0,
                likely,
                high,
                "counted by the profiler"
                if likely
                else "captured outside the budget, in the rest of the card",
            )
        )
        lines.append(
            Part(
                "attention workspace",
                0.0,
                0.0,
                constant("flashinfer_workspace_mib") * MIB,
                "only with the FlashInfer backend",
            )
        )
    lines.append(
        Part("boot-to-boot spread", -spread / 2, 0.0, spread, "two boots of one set-up differ")
    )
    return tuple(lines)


def cpu_parts(shape: Shape, batch: Batch, *, base_gib: float) -> tuple[Part, ...]:
    """Return the overhead lines of a CPU engine: processes and the peak of a step."""
    base = base_gib * GIB
    peak = activation_peak(shape, Cut(), batch.tokens) * constant("cpu_peak_factor") + sampler_peak(
        shape, min(batch.sequences, 64), "V1"
    )
    return (
        Part(
            "processes",
            constant("cpu_spread_low") * base,
            base,
            constant("cpu_spread_high") * base,
            "Python, vLLM and, on the first engine, Ray",
        ),
        Part(
            "peak of a step",
            constant("cpu_peak_spread_low") * peak,
            peak,
            constant("cpu_peak_spread_high") * peak,
            f"one step of {batch.tokens} tokens",
        ),
    )
