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
from consilium.cli.top.figures import WANTED, Figures, Series
from consilium.cli.top.frame import About, frame, wrong
from consilium.cli.top.page import parse
from consilium.cli.top.reading import Reader, Reading
from consilium.kernel import gpus
from consilium.kernel.errors import ConsiliumError

SHORTEST_S: Final = 1.0
LONGEST_S: Final = 3600.0
WINDOW_S: Final = 60.0
"""Seconds that rates and quantiles are made of, or three readings where those are longer."""
FINAL: Final = frozenset({"unauthenticated", "forbidden", "not_supported"})
"""Errors that no later reading mends."""


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
        from consilium.cli.top.screen import show

        show(watch, args.interval)
        return 0
    finally:
        reader.close()


class Watch:
    """The figures as they are now, and what went wrong with the last reading."""

    def __init__(
        self, reader: Reader, where: str, interval_s: float, *, has_driver: bool | None = None
    ) -> None:
        self._reader, self._where = reader, where
        self._series = Series(max(WINDOW_S, 3 * interval_s), has_driver=has_driver)
        self._good_at: float | None = None
        self._why = ""
        self._note = ""
        self.figures = Figures()

    def read(self) -> Reading | ConsiliumError:
        """Ask for the page; may run in a thread of its own."""
        try:
            return self._reader.read()
        except ConsiliumError as err:
            return err

    def take(self, answer: Reading | ConsiliumError) -> None:
        """Take an answer over. Raises ConsiliumError for the first if it is none, and for errors that stay."""
        if isinstance(answer, ConsiliumError):
            if self._good_at is None or answer.code in FINAL:
                raise answer
            self._why = answer.public()
            return
        self._why, self._note, self._good_at = "", answer.note, answer.at
        self.figures = self._series.take(parse(answer.text, WANTED), answer.at)

    def about(self, hint: str = "") -> About:
        """Return what stands over the frame."""
        lines = [self._note] if self._note else []
        if self._why and self._good_at is not None:
            age_s = time.monotonic() - self._good_at
            lines = [f"figures are {age_s:.0f} s old: {self._why}"]
        return About(self._where, time.strftime("%H:%M:%S"), tuple(lines), hint)


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
