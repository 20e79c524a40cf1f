"""`consilium models`: which models answer, and where one lies on disk."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from consilium.cli.answers import document
from consilium.cli.endpoint import add_endpoint, add_output, add_state, endpoint_of, folder_of


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("models", help="List the models, or say where one lies on disk.")
    commands = parser.add_subparsers(dest="what", metavar="list|path", required=True)
    listing = commands.add_parser("list", help="models, roles and executors that answer")
    add_endpoint(listing)
    add_output(listing)
    path = commands.add_parser(
        "path", help="folder of a model; it is made or downloaded if it is not there"
    )
    path.add_argument("name", help="demo, tiny, tiny-moe, a hub name, or a folder")
    add_state(path)


def run(args: argparse.Namespace) -> int:
    """List the models of a cluster, or resolve one."""
    return _list(args) if args.what == "list" else _path(args)


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
    from rich.console import Console

    rows = found.get("data")
    Console().print(_table(rows if isinstance(rows, list) else []))
    return 0


def _table(rows: list[Mapping[str, object]]) -> object:
    from rich.table import Table

    table = Table("model", "context", "what it is", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(
            str(row["id"]), str(row.get("max_model_len") or ""), str(row.get("description") or "")
        )
    return table
