"""How well the planner agrees with published measurements: errors of KV room, ratios of speed. Used by the tests and by the page in README.md.

Knows data/boot_logs.json and data/speed_points.json. A point with role `check` was not used to choose a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from consilium.planner import models, speed, verdict
from consilium.planner.ask import Ask
from consilium.planner.cards import Card, card, cpu
from consilium.planner.figures import GIB, table
from consilium.planner.sharding import Cut


@dataclass(frozen=True, slots=True)
class Seen:
    """One point: measured and told value, whether it was held apart, whether its settings are known, and why it misses where that is known."""

    id: str
    held_apart: bool
    measured: float
    told: float
    sure: bool = True
    why: str = ""

    @property
    def error(self) -> float:
        """Absolute difference."""
        return abs(self.told - self.measured)

    @property
    def ratio(self) -> float:
        """Told over measured."""
        return self.told / self.measured


def boot_ask(point: Mapping[str, Any]) -> Ask:
    """Return the question that a published boot log answers; what the log leaves out is vLLM's default."""
    shape = models.by_name(point["shape"]).shape
    return Ask(
        shape=shape,
        cards=(Card(point["gpu"], point["gpu_total_gib"]),) * (point["tp"] * point["pp"]),
        weights=point["weights"],
        kv_dtype=point["kv_dtype"],
        cut=Cut(point["tp"], point["pp"], 1, expert_parallel=bool(point.get("ep", False))),
        context=point["max_model_len"] or 4096,
        sequences=point["max_num_seqs"],
        batched_tokens=point["max_num_batched_tokens"],
        utilisation=point["gpu_memory_utilization"],
        version=point["vllm"],
        runner=point["runner"],
    )


def measured_kv_gib(point: Mapping[str, Any]) -> float | None:
    """Return the GiB of KV that a boot log printed, or that follow from its tokens; None where neither stands there."""
    seen = point["measured"]
    if seen["kv_gib_per_gpu"] is not None:
        return float(seen["kv_gib_per_gpu"])
    return (
        float(seen["kv_tokens"]) * float(point["expected_bytes_per_token_per_gpu"]) / GIB
        if seen["kv_tokens"]
        else None
    )


def kv_points() -> list[Seen]:
    """Return every boot log with its measured and told room for KV, in GiB per card."""
    found = []
    for point in table("boot_logs")["points"]:
        measured = measured_kv_gib(point)
        if measured is not None:
            told = verdict.plan(boot_ask(point)).bill.kv[1] / GIB
            found.append(
                Seen(
                    point["id"],
                    point["role"] == "check",
                    measured,
                    told,
                    point["confidence"] != "low",
                    point.get("why", ""),
                )
            )
    return found


def rate_of(point: Mapping[str, Any]) -> speed.Rate:
    """Return the told rate for one published speed."""
    shape = models.by_name(point["model"]).shape
    load = speed.Load(
        point["batch"],
        point["context"],
        point["weights"],
        "bf16",
        round(point.get("file_gib", 0) * GIB),
        bool(point.get("eager", False)),
    )
    decode = point["kind"] == "decode"
    if point.get("cpu"):
        return (speed.decode_on_cpu if decode else speed.prefill_on_cpu)(
            shape, cpu(point["card"]), load
        )
    rate = (speed.decode if decode else speed.prefill)(
        shape, card(point["card"]), Cut(point["tp"], point["cards"] // point["tp"]), load
    )
    if rate is None:
        raise ValueError(point["id"])
    return rate


def speed_points(kind: str) -> list[Seen]:
    """Return every published speed of a kind (decode or prefill) with its told value, in tokens per second."""
    return [
        Seen(point["id"], point["role"] == "check", point["tokens_per_s"], rate_of(point).likely)
        for point in table("speed_points")["points"]
        if point["kind"] == kind
    ]
