"""`consilium down`: stop exactly what `up` started."""

from __future__ import annotations

import argparse
import time

from consilium.cli.endpoint import add_state, folder_of
from consilium.supervisor.ending import stop


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "down",
        help="Stop the cluster.",
        description="Stop the cluster. Running answers get gateway.drain_s seconds to finish.",
    )
    add_state(parser)
    parser.add_argument("--now", action="store_true", help="do not wait for running answers")


def run(args: argparse.Namespace) -> int:
    """Stop the cluster of a state folder. Nothing to stop is not an error."""
    folder = folder_of(args)
    cluster = folder.read_cluster()
    if cluster is None:
        print(f"No cluster runs in {folder.root}.")
        return 0
    begun = time.monotonic()
    ended = stop(folder, cluster, now=args.now)
    print(
        f"Stopped: {ended} processes, {time.monotonic() - begun:.1f} s."
        if ended
        else f"No cluster runs in {folder.root}."
    )
    return 0
