"""Turns a plan into what a person reads: verdict, table of where every GiB goes, a bar of the card; and into a dict for programs.

Knows plans and rates as values. Does not print and does not choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from consilium.planner import kv
from consilium.planner.figures import gib, tokens_in_words
from consilium.planner.search import Change
from consilium.planner.speed import Rate
from consilium.planner.verdict import Plan

WORDS: Final = {
    "fits": "fits",
    "tight": "tight: it fits, with little to spare",
    "no": "does not fit",
}
_SIGNS: Final = {
    "weights": "#",
    "LoRA slots": "L",
    "KV, asked": "=",
    "KV, more": "-",
    "overhead": "o",
    "free": ".",
    "outside the share": " ",
}
BAR_WIDTH: Final = 64


def rows(plan: Plan) -> list[tuple[str, float, float, float, str]]:
    """Return (name, low, likely, high, why) in GiB: every line of the deciding card, then the room for KV and what is asked of it."""
    bill = plan.bill
    lines = [
        (part.name, gib(part.low), gib(part.likely), gib(part.high), part.why)
        for part in bill.parts
    ]
    fixed = plan.ask.kv_bytes is not None or plan.ask.on_cpu
    why = "fixed by kv_cache_gib" if fixed else f"what is left of {gib(bill.budget):.2f} GiB"
    lines.append(("KV cache, room", gib(bill.kv[0]), gib(bill.kv[1]), gib(bill.kv[2]), why))
    need = gib(bill.kv_needed)
    blocks = kv.sequences_bytes(
        plan.ask.shape,
        plan.ask.kv_dtype,
        plan.ask.batch.sequences,
        plan.ask.cut.tp,
        layer_share=bill.stage.share(plan.ask.shape),
    )
    if not plan.ask.eager and 0 < blocks >= bill.kv_needed:
        lines.append(
            (
                "KV cache, asked",
                need,
                need,
                need,
                f"a block of state for each of {plan.ask.batch.sequences} sequences",
            )
        )
        return lines
    many = (
        f"{plan.ask.requests} x {tokens_in_words(plan.ask.context)}"
        if plan.ask.requests > 1
        else tokens_in_words(plan.ask.context)
    )
    lines.append(
        ("KV cache, asked", need, need, need, f"{many} tokens, {bill.token_kv:,.0f} bytes each")
    )
    return lines


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a plain table; columns that hold numbers are right-aligned."""
    body = [list(line) for line in lines]
    widths = [
        max(len(str(line[column])) for line in [list(header), *body])
        for column in range(len(header))
    ]
    numeric = [
        all(_is_number(line[column]) for line in body) if body else False
        for column in range(len(header))
    ]

    def row(cells: Sequence[str]) -> str:
        return "  ".join(
            str(cell).rjust(width) if right else str(cell).ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        ).rstrip()

    return "\n".join(
        [row(header), "  ".join("-" * width for width in widths), *(row(line) for line in body)]
    )


def _is_number(cell: str) -> bool:
    return (
        cell.replace(",", "")
        .replace(".", "")
        .replace("-", "")
        .replace(" ", "")
        .replace("k", "")
        .replace("M", "")
        .isdigit()
        or cell == ""
    )


def memory_table(plan: Plan) -> str:
    """Return the table of where every GiB goes."""
    lines = [
        (name, f"{low:.2f}", f"{likely:.2f}", f"{high:.2f}", why)
        for name, low, likely, high, why in rows(plan)
    ]
    return table(
        ("GiB per card" if not plan.ask.on_cpu else "GiB", "low", "likely", "high", "why"), lines
    )


def bar(plan: Plan) -> str:
    """Return a picture of the card, one character per 1/64 of it, and its legend."""
    bill = plan.bill
    room = max(0.0, bill.kv[1])
    asked = min(room, bill.kv_needed)
    weights = sum(part.likely for part in bill.parts if part.name == "weights")
    slots = sum(part.likely for part in bill.parts if part.name == "LoRA slots")
    parts = {
        "weights": weights,
        "LoRA slots": slots,
        "overhead": max(0.0, bill.spent() - weights - slots),
        "KV, asked": asked,
        "KV, more": room - asked,
    }
    used = sum(parts.values())
    fixed = plan.ask.kv_bytes is not None or plan.ask.on_cpu
    parts["free" if fixed else "outside the share"] = max(0.0, bill.total - used)
    whole = max(bill.total, used)
    picture = "".join(_SIGNS[name] * count for name, count in _counts(parts, whole))
    over = f"  over by {gib(used - bill.total):.1f} GiB" if used > bill.total else ""
    legend = "  ".join(
        f"{_SIGNS[name]} {name} {gib(size):.1f}"
        for name, size in parts.items()
        if size > 0 and _SIGNS[name].strip()
    )
    return f"{bill.card}, {gib(bill.total):.1f} GiB\n[{picture}]{over}\n{legend}"


def _counts(parts: dict[str, float], whole: float) -> list[tuple[str, int]]:
    shown = {name: size for name, size in parts.items() if size > 0}
    counts = {name: max(1, int(size / whole * BAR_WIDTH)) for name, size in shown.items()}
    while sum(counts.values()) > BAR_WIDTH:
        counts[max(counts, key=lambda name: counts[name])] -= 1
    if shown:
        counts[max(shown, key=lambda name: shown[name] / whole * BAR_WIDTH - counts[name])] += (
            BAR_WIDTH - sum(counts.values())
        )
    return list(counts.items())


def speed_lines(rates: Iterable[tuple[str, Rate | None]]) -> str:
    """Return the table of speeds: likely, range, ceiling, and the roofline that holds."""
    lines = [
        (
            name,
            f"{rate.likely:,.0f}" if rate.likely >= 10 else f"{rate.likely:.1f}",
            f"{_short(rate.low)} to {_short(rate.high)}",
            _short(rate.ceiling),
            rate.bound,
        )
        for name, rate in rates
        if rate is not None
    ]
    return (
        table(("tokens per second", "likely", "range", "ceiling", "held by"), lines)
        if lines
        else "No speed is told: the memory bandwidth is not known. Name the card with --gpu or the processor with --cpu."
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def change_lines(changes: Iterable[Change]) -> list[str]:
    """Return one sentence per change that makes it fit, nearest first."""
    return [
        f"{change.words[0].upper()}{change.words[1:]}: {change.plan.verdict}, {tokens_in_words(change.plan.tokens[1])} tokens of KV."
        for change in changes
    ]


def as_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan for programs: bytes as whole numbers, GiB nowhere."""
    ask, bill = plan.ask, plan.bill
    return {
        "verdict": plan.verdict,
        "model": ask.shape.name,
        "weights": ask.weights,
        "kv_dtype": ask.kv_dtype,
        "binding": plan.binding,
        "cards": [card.name for card in ask.cards],
        "tensor_parallel": ask.cut.tp,
        "pipeline_parallel": ask.cut.pp,
        "context": ask.context,
        "requests": ask.requests,
        "total_bytes": bill.total,
        "budget_bytes": bill.budget,
        "margin_bytes": round(plan.margin),
        "kv_bytes_needed": bill.kv_needed,
        "kv_bytes_per_token": round(bill.token_kv),
        "kv_bytes": {
            "low": round(bill.kv[0]),
            "likely": round(bill.kv[1]),
            "high": round(bill.kv[2]),
        },
        "tokens": {"low": plan.tokens[0], "likely": plan.tokens[1], "high": plan.tokens[2]},
        "concurrency": round(plan.concurrency, 3),
        "parts": [
            {
                "name": part.name,
                "low": round(part.low),
                "likely": round(part.likely),
                "high": round(part.high),
                "why": part.why,
            }
            for part in bill.parts
        ],
        "warnings": list(plan.warnings),
    }


def rate_dict(rate: Rate | None) -> dict[str, Any] | None:
    """Return a rate for programs."""
    if rate is None:
        return None
    return {
        "likely": round(rate.likely, 2),
        "low": round(rate.low, 2),
        "high": round(rate.high, 2),
        "ceiling": round(rate.ceiling, 2),
        "bound": rate.bound,
        "seconds": round(rate.seconds, 4),
    }
