"""`consilium config show | example`: the configuration that would be used, and one that documents every key. Marks what a running cluster takes over."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from consilium.cli import config_tree
from consilium.cli.endpoint import add_state, folder_of
from consilium.kernel.config import dump, environment_value, flatten
from consilium.kernel.live_config import live_sections


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "config", help="Show the configuration and where each value came from."
    )
    commands = parser.add_subparsers(dest="what", metavar="show|example", required=True)
    show = commands.add_parser(
        "show", help="every value and where it came from: flag, environment, file or default"
    )
    config_tree.add_config_flags(show)
    add_state(show)
    show.add_argument("--output", choices=("table", "yaml", "json"), default="table")
    commands.add_parser("example", help="print a consilium.yaml that documents every key")


def run(args: argparse.Namespace) -> int:
    """Print the configuration."""
    if args.what == "example":
        from consilium.cli.example import example

        print(example(), end="")
        return 0
    loaded = config_tree.load_tree(args)
    config_tree.self_contained(
        loaded.value, config_tree.beside(args)
    )  # files that are named must be there, as `up` wants them
    plain = dump(loaded.value, masked=True)
    rows = [(key, value, loaded.origin(key)) for key, value in flatten(plain).items()]
    live = frozenset(live_sections(config_tree.ConsiliumConfig))
    rows.append(
        (
            "state",
            str(folder_of(args).root),
            "flag"
            if args.state
            else "environment"
            if environment_value("CONSILIUM_STATE")
            else "default",
        )
    )
    if args.output == "json":
        print(
            json.dumps(
                {
                    key: {"value": value, "origin": origin, "live": _is_live(key, live)}
                    for key, value, origin in rows
                },
                indent=2,
                ensure_ascii=False,
            )
        )
    elif args.output == "yaml":
        import yaml

        print(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), end="")
    else:
        from rich.console import Console

        Console(soft_wrap=True).print(_table(rows, live))
    return 0


def _is_live(key: str, live: AbstractSet[str]) -> bool:
    return key.partition(".")[0] in live


def _table(rows: Sequence[tuple[str, object, str]], live: AbstractSet[str]) -> object:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "key",
        "value",
        "from",
        "changes",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for key, value, origin in rows:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(
            key,
            escape("" if value is None else text),
            origin if origin == "default" else f"[bold]{origin}[/]",
            "[green]while running[/]" if _is_live(key, live) else "",
        )
    return table
