"""`consilium status`: each part with state, address and memory; executors and replicas; exit code 3 if something is not well."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from consilium.cli.app import EXIT_UNHEALTHY
from consilium.cli.endpoint import add_output, add_state, folder_of, running
from consilium.supervisor.doctor import config_refusal
from consilium.supervisor.probes import http_get
from consilium.supervisor.state_folder import Cluster


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", help="Show each part: state, address, memory.")
    add_state(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of the cluster. Raises ConsiliumError(not_running)."""
    from consilium.supervisor.part_memory import weigh

    cluster = running(folder_of(args))
    sizes, replicas = weigh(cluster)
    executors = executors_of(cluster)
    refusal = config_refusal(cluster)
    healthy = (
        cluster.phase == "up"
        and all(part.state == "up" for part in cluster.parts.values())
        and all(row.get("state") == "ready" for row in executors)
    )
    if args.output == "json":
        found = {
            "state": cluster.state,
            "phase": cluster.phase,
            "healthy": healthy,
            "down": down_parts(cluster),
            "model": cluster.model,
            "addresses": {
                name: address for name, address in cluster.addresses.items() if name != "redis"
            },
            "parts": {
                name: {**asdict(part), "pss_bytes": sizes.get(name, 0)}
                for name, part in cluster.parts.items()
            },
            "executors": executors,
            "config_refused": refusal,
            "replicas": [asdict(replica) for replica in replicas],
            "pss_bytes": sum(sizes.values()),
        }
        print(json.dumps(found, indent=2))
        return 0 if healthy else EXIT_UNHEALTHY
    from rich.console import Console
    from rich.table import Table

    from consilium.cli import tables

    console = Console()
    console.print(tables.running(cluster, sizes))
    if executors or replicas:
        table = Table(
            "executor",
            "state",
            "replicas",
            box=None,
            pad_edge=False,
            header_style="bold",
            padding=(0, 2, 0, 0),
        )
        for row in executors:
            mine = [replica for replica in replicas if replica.app == f"executor-{row.get('name')}"]
            table.add_row(
                str(row.get("name")),
                str(row.get("state")),
                str(row.get("model", "")),
                ", ".join(f"pid {item.pid} ({tables.human(item.pss_bytes)})" for item in mine),
            )
        console.print()
        console.print(table)
        console.print()
    if refusal:
        print(f"note: the configuration cannot be used, and the last good one is kept: {refusal}")
    for name in ("openai", "grpc", "metrics"):
        print(f"{name:8} {cluster.addresses[name]}")
    for line in [] if healthy else ailing(cluster, executors, time.time()):
        print(line)
    return 0 if healthy else EXIT_UNHEALTHY


def down_parts(cluster: Cluster) -> list[dict[str, object]]:
    """Return the parts that are not up: name, state, since when (Unix seconds), why, and whether the cluster is nothing without it."""
    return [
        {
            "part": name,
            "state": part.state,
            "since": part.down or part.since,
            "why": part.why or part.detail,
            "vital": part.vital,
        }
        for name, part in cluster.parts.items()
        if part.state != "up"
    ]


def down_lines(cluster: Cluster, now: float) -> list[str]:
    """Return which parts are not up, since when and why, a line each.

    now  Unix seconds
    """
    lines = []
    for row in down_parts(cluster):
        since = float(str(row["since"]))
        at = time.strftime("%H:%M:%S", time.localtime(since))
        why = f": {row['why']}" if row["why"] else ""
        lines.append(f"{row['part']} is {row['state']}, down since {at} ({now - since:.0f} s){why}")
    return lines


def ailing(cluster: Cluster, executors: list[dict[str, str]], now: float) -> list[str]:
    """Return why the cluster is called degraded, where it answers but lacks something, or unhealthy, a line each.

    now  Unix seconds
    """
    down = [
        f"the executor {row.get('name')} is {row.get('state')}"
        for row in executors
        if row.get("state") != "ready"
    ]
    found = [*down_lines(cluster, now), *down] or [f"the cluster is {cluster.phase}"]
    word = (
        "unhealthy" if down or any(row["vital"] for row in down_parts(cluster)) else cluster.phase
    )
    wanted = [str(row["part"]) for row in down_parts(cluster)] or ["engine", "gateway"]
    logs = " and ".join(f"'consilium logs {name}'" for name in dict.fromkeys(wanted))
    return [
        "",
        *(f"{word}: {why}" for why in found),
        f"next: {logs} {'shows' if len(wanted) == 1 else 'show'} what was said.",
    ]


def executors_of(cluster: Cluster) -> list[dict[str, str]]:
    """Return name and state of each executor as the gateway sees them; nothing if it does not answer."""
    _, body = http_get(f"{cluster.addresses['http']}/ready", timeout_s=5.0)
    try:
        found = json.loads(body)["executors"]
        return [{"name": str(name), "state": str(state)} for name, state in found.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
