"""What each part of a running cluster weighs, and which replicas there are.

Knows how Ray names its processes; which belong to which part stands in the table (parts.py). Counts proportional memory (PSS): pages that several processes share are counted once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.supervisor import processes
from consilium.supervisor.parts import SUPERVISOR, ray_logs_of
from consilium.supervisor.ray_logs import RayLogs, part_of_actor
from consilium.supervisor.state_folder import Cluster, Pid

_REPLICA: Final = re.compile(r"^ray::ServeReplica:(?P<app>[^:]+):(?P<deployment>[^.\s]+)")


@dataclass(frozen=True, slots=True)
class Process:
    """One process as the system shows it."""

    pid: Pid
    parent: int
    title: str


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica of a Serve application, with everything below it."""

    app: str
    pid: int
    pss_bytes: int


def look(known: Iterable[Pid]) -> tuple[Process, ...]:
    """Return the processes that still run."""
    found = []
    for item in known:
        process = processes.find(item)
        if process is None:
            continue
        try:
            found.append(
                Process(item, process.ppid(), " ".join(process.cmdline()) or process.name())
            )
        except processes.GONE:
            continue
    return tuple(found)


def assign(
    found: Iterable[Process], roots: Mapping[int, str], logs: Mapping[str, RayLogs]
) -> dict[int, str]:
    """Return pid -> part. A replica and everything below it belongs to its part; the rest to the nearest root above it, else to `other`.

    roots  pid -> part of the processes that the supervisor started
    logs   whose an actor of Ray is
    """
    rows = {process.pid.pid: process for process in found}
    parts: dict[int, str] = {}
    for pid in rows:
        here: int | None = pid
        part = None
        while here in rows and part is None:
            part = _part_of_title(rows[here].title, logs) or roots.get(here)
            here = rows[here].parent
        parts[pid] = part or roots.get(here or 0, "other")
    return parts


def _part_of_title(title: str, logs: Mapping[str, RayLogs]) -> str | None:
    replica = _REPLICA.match(title)
    return None if replica is None else part_of_actor(f"ServeReplica:{replica['app']}", logs)


def weigh(cluster: Cluster) -> tuple[dict[str, int], tuple[Replica, ...]]:
    """Return bytes per part (`supervisor` and `other` among them) and every replica."""
    family = (cluster.supervisor, *processes.descendants(cluster.supervisor))
    found = look(family)
    roots = {part.pids[0].pid: name for name, part in cluster.parts.items() if part.pids} | {
        cluster.supervisor.pid: SUPERVISOR
    }
    parts = assign(found, roots, ray_logs_of())
    sizes = {process.pid.pid: processes.pss_bytes((process.pid,)) for process in found}
    totals: dict[str, int] = {}
    for pid, part in parts.items():
        totals[part] = totals.get(part, 0) + sizes[pid]
    return totals, _replicas(found, sizes)


def _replicas(found: tuple[Process, ...], sizes: Mapping[int, int]) -> tuple[Replica, ...]:
    above = {process.pid.pid: process.parent for process in found}
    rows = []
    for process in found:
        replica = _REPLICA.match(process.title)
        if replica is not None:
            mine = sum(size for pid, size in sizes.items() if process.pid.pid in _line(pid, above))
            rows.append(Replica(replica["app"], process.pid.pid, mine))
    return tuple(rows)


def _line(pid: int, above: Mapping[int, int]) -> tuple[int, ...]:
    """Return a process and its ancestors."""
    line = []
    here: int | None = pid
    while here is not None and here in above:
        line.append(here)
        here = above[here]
    return tuple(line)
