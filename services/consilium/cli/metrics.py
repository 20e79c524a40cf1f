"""`consilium metrics catalogue`: every metric that this cluster's own processes may show, with what it means. vLLM's, Ray's and HAProxy's stand in their own documents."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Final

from consilium.cli.app import EXIT_NOT_FOUND, complain
from consilium.cli.endpoint import add_output
from consilium.cli.tables import show

VLLM: Final = "https://docs.vllm.ai/en/latest/usage/metrics.html"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "metrics", help="Show every metric: name, type, labels, meaning."
    )
    commands = parser.add_subparsers(dest="what", metavar="catalogue", required=True)
    catalogue = commands.add_parser("catalogue", help="every metric of our own processes")
    catalogue.add_argument(
        "word", nargs="?", help="only those with this word in their name or meaning"
    )
    add_output(catalogue)


def run(args: argparse.Namespace) -> int:
    """Print the catalogue. Returns 4 if no metric has the word."""
    word = (args.word or "").lower()
    rows = [row for row in catalogue() if word in f"{row['name']} {row['help']}".lower()]
    if args.output == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    if not rows:
        complain(
            f"No metric has {args.word!r} in its name or meaning.",
            "'consilium metrics catalogue' without a word shows every one.",
        )
        return EXIT_NOT_FOUND
    if sys.stdout.isatty():
        _show_under_each_other(rows)
    else:
        _show_a_line_each(rows)
    print(
        f"Engines also show vLLM's own figures (vllm:...), with the labels executor and replica: {VLLM}"
    )
    return 0


def _show_under_each_other(rows: list[Mapping[str, object]]) -> None:
    """Print them for a terminal: five columns have no room there, and names of labels must not be cut."""
    from rich.console import Console
    from rich.markup import escape
    from rich.padding import Padding

    console = Console(highlight=False)
    for row in rows:
        kinds = " ".join(str(row[key]) for key in ("type", "unit") if row[key])
        labels = f"  by {_labels(row)}" if row["labels"] else ""
        console.print(f"[bold]{row['name']}[/]  {kinds}{labels}")
        console.print(Padding(escape(str(row["help"])), (0, 0, 0, 4)))


def _show_a_line_each(rows: list[Mapping[str, object]]) -> None:
    from rich.table import Table

    table = Table(
        "metric", "type", "unit", "labels", "meaning", box=None, pad_edge=False, header_style="bold"
    )
    for row in rows:
        told = (row["name"], row["type"], row["unit"], _labels(row), row["help"])
        table.add_row(*map(str, told))
    show(table)


def _labels(row: Mapping[str, object]) -> str:
    labels = row["labels"]
    return ", ".join(labels) if isinstance(labels, list) else ""


def catalogue() -> list[Mapping[str, object]]:
    """Return every metric by name: name, type, unit, labels, help."""
    from consilium.gpu_metrics.ports import TABLE as CARDS
    from consilium.gpu_metrics.ports import Family
    from consilium.kernel.metrics_table import TABLE, Metric
    from consilium.supervisor.metrics_page import PART_UP, SOURCE_AGE

    known: tuple[Metric | Family, ...] = (*TABLE, *CARDS)
    rows = [_row(one.name, one.kind, one.unit, one.labels, one.help) for one in known]
    rows.append(_row(PART_UP[0], "gauge", "", ("part",), PART_UP[1]))
    rows.append(_row(SOURCE_AGE[0], "gauge", "seconds", ("source",), SOURCE_AGE[1]))
    return sorted(rows, key=lambda row: str(row["name"]))


def _row(
    name: str, kind: str, unit: str, labels: tuple[str, ...], meaning: str
) -> Mapping[str, object]:
    return {"name": name, "type": kind, "unit": unit, "labels": list(labels), "help": meaning}
