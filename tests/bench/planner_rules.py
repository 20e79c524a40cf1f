"""The planner beside other published rules, on the same boot logs: room for KV in GiB per card, and what is said to fit.

`python -m tests.bench.planner_rules` prints the table. The rules are written from their published formulas, given the same weight sizes that we use; each
is told the share of the card where it takes one. Nothing here was adjusted to the logs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from consilium.planner import kv, verdict, weights
from consilium.planner.accuracy import boot_ask, measured_kv_gib
from consilium.planner.ask import Ask, checked
from consilium.planner.figures import GIB, table
from consilium.planner.report import table as text_table
from consilium.planner.sharding import stages


@dataclass(frozen=True, slots=True)
class Card:
    """What every rule is told: sizes in GiB on one card."""

    total: float
    share: float
    weights: float
    sequence: float
    hidden: int
    tokens: int
    ranks: int


Rule = Callable[[Card], float]

RULES: dict[str, tuple[Rule, str]] = {
    "share x total - weights": (lambda c: c.share * c.total - c.weights, "what most people reckon"),
    "share x total - weights - 1.6 GiB": (
        lambda c: c.share * c.total - c.weights - 1.6,
        "a constant, itself fitted to logs of small batches",
    ),
    "KAITO, as shipped": (
        lambda c: 0.84 * c.total - 1.02 * c.weights - 2.3 - 0.05 * c.weights,
        "1.02 W + 2.3 GiB + 5 % W per GPU, share 0.84",
    ),
    "KAITO, with the right share": (
        lambda c: c.share * c.total - 1.02 * c.weights - 2.3 - 0.05 * c.weights,
        "the same with the share of the log",
    ),
    "GPUStack": (lambda c: c.share * c.total - 1.2 * c.weights - 2.0, "1.2 W + 2 GiB"),
    "hf-mem": (lambda c: c.total - c.weights, "weights + one sequence of KV, nothing else"),
    "llm-d-planner": (
        lambda c: c.share * c.total - c.weights - 5.6 - (0.6 if c.ranks > 1 else 0.15),
        "measured constants of 1,024 sequences",
    ),
    "aiconfigurator": (
        lambda c: (
            c.share * c.total
            - c.weights
            - 2 * c.tokens * c.hidden * 10 / GIB
            - (0.36 if c.ranks > 1 else 0.0)
            - 3.5
        ),
        "W + 2 tokens H c (c = 10) + NCCL + 3.5 GiB",
    ),
}
OURS = "this planner"
FITTED = ("share x total - weights - 1.6 GiB",)


@dataclass(frozen=True, slots=True)
class Score:
    """One rule over all logs: middle error in GiB, share within 1 GiB, worst, and wrong words about fitting."""

    name: str
    median: float
    within: float
    worst: float
    wrong_fit: int
    points: int
    about: str


def card_of(ask: Ask) -> Card:
    """Return what a rule is told about a boot log."""
    stage = max(
        stages(ask.shape, ask.cut.pp),
        key=lambda one: weights.card_bytes(ask.shape, ask.weights, ask.cut, one),
    )
    held = weights.card_bytes(ask.shape, ask.weights, ask.cut, stage) / GIB
    sequence = (
        kv.request_bytes(
            ask.shape, ask.kv_dtype, ask.context, ask.cut.tp, layer_share=stage.share(ask.shape)
        )
        / GIB
    )
    return Card(
        ask.cards[0].total_gib,
        ask.share,
        held,
        sequence,
        ask.shape.hidden,
        ask.batch.tokens,
        ask.cut.cards,
    )


def compare(*, held_apart_only: bool = False) -> list[Score]:
    """Return the score of every rule and of this planner, best first."""
    sure = [point for point in table("boot_logs")["points"] if point["confidence"] != "low"]
    points = [point for point in sure if point["role"] == "check" or not held_apart_only]
    found = []
    for name, (rule, about) in RULES.items():
        found.append(_score(name, about, points, rule))
    found.append(_score(OURS, "shapes, slots, peaks and graphs by version", points, None))
    return sorted(found, key=lambda score: (score.median, -score.within))


def _score(name: str, about: str, points: list[dict], rule: Rule | None) -> Score:
    errors, wrong = [], 0
    for point in points:
        ask = checked(boot_ask(point))
        card = card_of(ask)
        told = verdict.plan(ask).bill.kv[1] / GIB if rule is None else rule(card)
        measured = measured_kv_gib(point)
        if measured is not None:
            errors.append(abs(told - measured))
        started = point.get("expect_fit", True)
        wrong += (told >= card.sequence) is not started
    return Score(
        name,
        statistics.median(errors),
        sum(error <= 1.0 for error in errors) / len(errors),
        max(errors),
        wrong,
        len(errors),
        about,
    )


def main() -> None:
    """Print both tables."""
    for title, only in (("all boot logs", False), ("held apart", True)):
        scores = compare(held_apart_only=only)
        print(f"Room for KV, {title} ({scores[0].points} points)\n")
        print(
            text_table(
                (
                    "rule",
                    "middle GiB",
                    "within 1 GiB",
                    "worst GiB",
                    "wrong about fitting",
                    "formula",
                ),
                [
                    (
                        score.name,
                        f"{score.median:.2f}",
                        f"{score.within:.0%}",
                        f"{score.worst:.2f}",
                        str(score.wrong_fit),
                        score.about,
                    )
                    for score in scores
                ],
            )
        )
        print()


if __name__ == "__main__":
    main()
