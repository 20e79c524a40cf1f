"""`consilium down`: stop exactly what `up` started."""

from __future__ import annotations

import argparse
import signal
import time
from dataclasses import replace
from typing import Final

from consilium.cli import processes
from consilium.cli.reach import add_state, folder_of
from consilium.cli.state_folder import Cluster, Pid, StateFolder

WAIT_S: Final = 60.0
ROUNDS: Final = 3
"""Looks for what is left: an engine that was starting may have started something after the last one."""


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


def stop(
    folder: StateFolder, cluster: Cluster, *, now: bool = False, wait_s: float = WAIT_S
) -> int:
    """End the supervisor, which ends its parts, and then whatever it may have left. Return how many processes were ended."""
    family = family_of(cluster)
    shared = processes.shared_memory(family)
    if processes.is_alive(cluster.supervisor) and cluster.boot == processes.boot_id() and not now:
        processes.send(cluster.supervisor, signal.SIGTERM)
        processes.wait_gone((cluster.supervisor,), wait_s + drain_seconds(folder))
    for _ in range(ROUNDS):
        left = tuple(
            item
            for item in dict.fromkeys((*family, *family_of(cluster)))
            if processes.is_alive(item)
        )
        remaining = processes.end(left, grace_s=3.0)
        if not left or remaining:
            break
    if not remaining:
        processes.remove_shared(shared)
    last = folder.read_cluster() or cluster
    if last.mark == cluster.mark:  # else the next start has begun, and the record is its own
        folder.write_cluster(
            replace(last, phase="stopped", parts={}, left=(), supervisor=Pid(0, 0.0))
        )
    return len(family)


def family_of(cluster: Cluster) -> tuple[Pid, ...]:
    """Return the processes of a cluster that still run: the supervisor, those it wrote down, and all that carry its mark."""
    if cluster.boot != processes.boot_id():
        return ()
    written = [pid for part in cluster.parts.values() for pid in part.pids]
    known = [
        cluster.supervisor,
        *written,
        *cluster.left,
        *processes.descendants(cluster.supervisor),
        *processes.marked(cluster.mark),
    ]
    return tuple(item for item in dict.fromkeys(known) if processes.is_alive(item))


def drain_seconds(folder: StateFolder) -> float:
    """Return how long running answers may take to finish."""
    import json

    try:
        return float(json.loads(folder.config.read_text(encoding="utf-8"))["gateway"]["drain_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
