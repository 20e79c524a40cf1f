"""`consilium top`: tokens, waiting times, cards and watts of a cluster, live in a terminal; one frame where there is none.

The first reading is needed: a cluster that does not run, or a key that lacks the scope, ends the command with the reason. Later ones may fail: the last figures stay
and the frame says since when. Knows the loop. Does not know how figures are made or drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Final

from consilium.cli.endpoint import (
    add_endpoint,
    add_output,
    endpoint_of,
    folder_of,
    is_elsewhere,
    running,
)
from consilium.cli.top.frame import frame, wrong
from consilium.cli.top.reading import Reader
from consilium.cli.top.screen import show
from consilium.cli.top.watch import Watch
from consilium.kernel import gpus
from consilium.kernel.errors import ConsiliumError

SHORTEST_S: Final = 1.0
LONGEST_S: Final = 3600.0


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "top",
        help="Show tokens, waiting times, cards and watts, live.",
        description="Show tokens, waiting times, errors, cards and watts of a cluster, live; q ends it. Without a terminal, with --once or with --output json: one frame of two readings. "
        "With --endpoint the key needs the scope metrics.read.",
    )
    add_endpoint(parser)
    add_output(parser)
    parser.add_argument(
        "--interval",
        type=_seconds,
        default=SHORTEST_S,
        metavar="S",
        help="seconds between two readings, 1 or more (default: 1)",
    )
    parser.add_argument("--once", action="store_true", help="print one frame and end")


def run(args: argparse.Namespace) -> int:
    """Show the figures. Raises ConsiliumError as `Reader.read` does, and not_running."""
    endpoint = endpoint_of(args)
    elsewhere = is_elsewhere(args)
    beside = "" if elsewhere else running(folder_of(args)).addresses.get("metrics", "")
    reader = Reader(endpoint, beside)
    try:
        has_driver = None if elsewhere else gpus.has_driver()
        watch = Watch(reader, endpoint.root, args.interval, has_driver=has_driver)
        if args.once or args.output == "json" or not sys.stdout.isatty():
            return _once(watch, args.interval, as_json=args.output == "json")
        show(watch, args.interval)
        return 0
    finally:
        reader.close()


def _once(watch: Watch, interval_s: float, *, as_json: bool) -> int:
    """Print one frame, whose rates are those between two readings."""
    watch.take(watch.read())
    time.sleep(interval_s)
    last = watch.read()
    if isinstance(last, ConsiliumError):
        raise last
    watch.take(last)
    about = watch.about()
    if as_json:
        told = asdict(watch.figures)
        told["endpoint"], told["wrong"] = about.where, [*about.wrong, *wrong(watch.figures)]
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    from rich.console import Console

    console = Console()
    console.print(frame(watch.figures, about, console.width), soft_wrap=True)
    return 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_S <= seconds <= LONGEST_S:
        msg = f"{text!r} is no number of seconds from {SHORTEST_S:g} to {LONGEST_S:g}"
        raise argparse.ArgumentTypeError(msg)
    return seconds
