"""The end of a cluster on this machine: its supervisor, the parts, and whatever they may have left.

Knows cluster.json and processes. Does not know who asks.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, Pid, StateFolder

SLACK_S: Final = 15.0
"""Seconds that the supervisor may take beyond what its parts may: a busy machine."""
ROUNDS: Final = 3
"""Looks for what is left: an engine that was starting may have started something after the last one."""


def stop(folder: StateFolder, cluster: Cluster, *, now: bool = False) -> int:
    """End the supervisor, which ends its parts, and then whatever it may have left. Return how many processes were ended.

    now  do not wait for running answers, nor for what the parts are doing
    """
    family = family_of(cluster)
    shared = processes.shared_memory(family)
    if processes.is_alive(cluster.supervisor) and cluster.boot == processes.boot_id() and not now:
        processes.send(cluster.supervisor, signal.SIGTERM)
        processes.wait_gone((cluster.supervisor,), ending_seconds(folder, cluster))
    end_family(folder, cluster, family, shared)
    last = folder.read_cluster() or cluster
    if last.mark == cluster.mark:  # else the next start has begun, and the record is its own
        folder.write_cluster(
            replace(last, phase="stopped", parts={}, left=(), supervisor=Pid(0, 0.0))
        )
    return len(family)


def end_family(
    folder: StateFolder, cluster: Cluster, family: tuple[Pid, ...], shared: frozenset[Path]
) -> tuple[Pid, ...]:
    """End what is left of a cluster, and what it left in /tmp and /dev/shm. Return the processes that do not end, which should be none.

    family  its processes, as seen before; those that they start meanwhile are looked for
    shared  what they had in /dev/shm
    """
    remaining: tuple[Pid, ...] = ()
    for _ in range(ROUNDS):
        known = dict.fromkeys((*family, *family_of(cluster)))
        left = tuple(item for item in known if processes.is_alive(item))
        shared |= processes.shared_memory(left)
        remaining = processes.end(left, grace_s=3.0)
        if not left or remaining:
            break
    if not remaining:
        processes.remove_shared(shared)
        folder.clear_ray_temp()
    return remaining


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


def ending_seconds(folder: StateFolder, cluster: Cluster) -> float:
    """Return how long the supervisor may take to end: the running answers, then each part with its own grace. Who is less patient asks the parts a second time."""
    try:
        config = json.loads(folder.config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    return drain_seconds(config) + cluster.end_s + SLACK_S


def drain_seconds(config: object) -> float:
    """Return how long running answers may take to finish. config  the resolved tree"""
    try:
        return float(config["gateway"]["drain_s"])  # type: ignore[index]  # a TypeError is answered below
    except (KeyError, TypeError, ValueError):
        return 0.0
