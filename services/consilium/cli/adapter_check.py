"""`consilium adapters check PATH --base MODEL`: every rule on one adapter, before anybody registers it. No cluster and no engine is needed, and of the model its config.json alone."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consilium.cli.adapter_bases import base_named
from consilium.cli.app import complain
from consilium.cli.endpoint import add_output
from consilium.cli.tables import show
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import set_variable
from consilium.planner.lora import RANKS

if TYPE_CHECKING:
    from rich.table import Table

    from consilium.lora_router.check_report import Report

EXIT_GOOD, EXIT_REFUSED, EXIT_USAGE = 0, 1, 2
_STYLE: Final = {"good": "green", "remark": "yellow", "refused": "bold red"}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="say whether an adapter is whole, and whether it fits a model",
        description="Check a folder with adapter_model.safetensors and adapter_config.json. Whether it does anything good only an engine can tell.",
    )
    parser.add_argument(
        "path", help="folder of the adapter, or a voice of the demo model such as demo:captain"
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="name such as Qwen3-30B-A3B, a folder, or a config.json"
    )
    parser.add_argument(
        "--max-rank",
        type=int,
        choices=RANKS,
        metavar="N",
        help="engine.lora.max_rank of the engine",
    )
    parser.add_argument(
        "--target-modules", default="", metavar="A,B", help="engine.lora.target_modules"
    )
    parser.add_argument(
        "--mixed-experts",
        action="store_true",
        help="the engine has enable_mixed_moe_lora_format in engine.extra_args",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Check one adapter: 0 = taken, 1 = refused, 2 = the model is not known."""
    set_variable("OPENBLAS_NUM_THREADS", "1")  # small products: its threads wait for one another
    from consilium.lora_router import check_report, fit

    try:
        base = None if args.base is None else base_named(args.base)
    except ConsiliumError as err:
        complain(f"--base: {err.fields.get('reason', err.public())}.")
        return EXIT_USAGE
    targets = tuple(filter(None, (name.strip() for name in args.target_modules.split(","))))
    weights = Path(args.base).expanduser() if args.base and Path(args.base).is_dir() else None
    wanted = fit.Wanted(args.max_rank, targets, args.mixed_experts)
    with _folder(args.path) as folder:
        found = check_report.report(folder, base, wanted, weights=weights)
    if args.output == "json":
        print(json.dumps(_as_json(found), indent=2, ensure_ascii=False))
    else:
        show(_table(found))
        print(_verdict(found, args.path))
    return EXIT_GOOD if found.is_good else EXIT_REFUSED


@contextmanager
def _folder(path: str) -> Iterator[Path]:
    from consilium.demo import voice_files
    from consilium.lora_router import sources

    if not path.startswith(voice_files.PREFIX):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="consilium-") as aside:
        yield sources.fetched(path, Path(aside))


def _verdict(found: Report, path: str) -> str:
    if not found.is_good:
        return f"{path} is refused."
    remarks = sum(row.verdict == "remark" for row in found.rows)
    return f"{path} is good" + (f", with {remarks} remarks." if remarks else ".")


def _as_json(found: Report) -> dict[str, object]:
    described = found.described
    return {
        "good": found.is_good,
        "sha": described.sha if described else "",
        "rank": described.rank if described else None,
        "size_bytes": described.size_bytes if described else None,
        "rows": [asdict(row) for row in found.rows],
    }


def _table(found: Report) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "rule", "where", "what", "way out"):
        table.add_column(head, overflow="fold")
    for row in found.rows:
        verdict = f"[{_STYLE[row.verdict]}]{row.verdict}[/]"
        table.add_row(verdict, row.code, *map(escape, (row.where, row.reason, row.way)))
    return table
