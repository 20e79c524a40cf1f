"""`consilium models`: which models answer, where one lies on disk, and fetching what a configuration needs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from consilium.cli.answers import document
from consilium.cli.endpoint import add_endpoint, add_output, add_state, endpoint_of, folder_of
from consilium.cli.tables import show

if TYPE_CHECKING:
    from rich.table import Table


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "models", help="List the models, fetch them, or say where one lies on disk."
    )
    commands = parser.add_subparsers(dest="what", metavar="list|path|fetch", required=True)
    listing = commands.add_parser("list", help="models, roles and executors that answer")
    add_endpoint(listing)
    add_output(listing)
    path = commands.add_parser(
        "path", help="folder of a model; it is made or downloaded if it is not there"
    )
    path.add_argument("name", help="demo, tiny, tiny-moe, a hub name, or a folder")
    add_state(path)
    fetch = commands.add_parser(
        "fetch", help="make or download every model of a configuration; goes on where it broke off"
    )
    fetch.add_argument("--config", "-c", type=Path, required=True, help="consilium.yaml")
    fetch.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of models")
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="another folder of models, such as a shared disk: copy from there in place of downloading",
    )


def run(args: argparse.Namespace) -> int:
    """List the models of a cluster, or resolve one."""
    return {"list": _list, "path": _path, "fetch": _fetch}[args.what](args)


def _fetch(args: argparse.Namespace) -> int:
    from consilium.cli.progress import shown
    from consilium.demo.copied import copy
    from consilium.demo.model import resolve
    from consilium.engine.config import EngineView
    from consilium.kernel.config import load_view
    from consilium.supervisor.model_step import models_of

    args.into.mkdir(parents=True, exist_ok=True)
    for name in models_of(load_view(EngineView, args.config).model_dump()):
        with shown(name) as report:
            if args.source is not None:
                copy(name, args.source, args.into, report)
            found = resolve(name, args.into, report)
        print(f"{name}: {found.note}; {found.path}", flush=True)
    return 0


def _path(args: argparse.Namespace) -> int:
    from consilium.demo.model import resolve

    folder = folder_of(args)
    folder.make()
    print(resolve(args.name, folder.models).path)
    return 0


def _list(args: argparse.Namespace) -> int:
    found = document(endpoint_of(args), "models")
    if args.output == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    rows = found.get("data")
    show(_table(rows if isinstance(rows, list) else []))
    return 0


def _table(rows: list[Mapping[str, object]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("model", "context", "what it is"):
        table.add_column(head, overflow="fold")  # a name that is cut is no name
    for row in rows:
        table.add_row(
            str(row["id"]), str(row.get("max_model_len") or ""), str(row.get("description") or "")
        )
    return table
