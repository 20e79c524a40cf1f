"""`consilium status`: each part with state, address and memory; executors and replicas; and, by the exit code, whether all is well.

What is shown is what the supervisor knows, with its age: it asks the parts, and this command waits for none of them. Where nobody looks after the cluster, or
who does stands still, the parts are asked from here, side by side. Either way the answer takes a second at most.

    0  all is well
    3  degraded: it answers, but lacks a part that is not vital, an executor, or somebody who looks after it
    5  down: a vital part does not answer
    71 no cluster runs

With --endpoint the gateway elsewhere is asked: it knows executors, and no parts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final, cast

from consilium.cli import adapter_tables
from consilium.cli.app import EXIT_DOWN, EXIT_UNHEALTHY
from consilium.cli.endpoint import add_endpoint, add_output, endpoint_of, folder_of, is_elsewhere
from consilium.kernel import steps_file
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor.doctor import config_refusal
from consilium.supervisor.executors_seen import NO_ANSWER, READY, executors_seen
from consilium.supervisor.outside_look import Care, Outside, look, side_by_side
from consilium.supervisor.part_memory import Replica, weigh
from consilium.supervisor.probes import http_get
from consilium.supervisor.state_folder import Cluster

EXTRAS_S: Final = 0.4
"""Seconds that memory and the configuration may take to be read; without them the rest is shown."""
ELSEWHERE_S: Final = 0.8
UNATTENDED: Final = "unattended"
"""What `phase` says in JSON while nobody looks after a cluster."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "status",
        help="Show each part: state, address, memory.",
        description="Show each part: state, address, memory. Exit code 0: all is well; 3: degraded, it answers but lacks something; 5: down; 71: no cluster runs.",
    )
    add_endpoint(parser)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of the cluster. Raises ConsiliumError(not_running)."""
    if is_elsewhere(args):
        return _elsewhere(endpoint_of(args).root, as_json=args.output == "json")
    folder = folder_of(args)
    written = folder.read_cluster()
    seen = look(folder, written) if written is not None else None
    if seen is None or seen.care is Care.NOTHING_RUNS:
        raise ConsiliumError("not_running", state=str(folder.root))
    cluster = seen.cluster
    extras = _extras(cluster)
    sizes, replicas = cast(
        "tuple[dict[str, int], tuple[Replica, ...]]", extras.get("memory", ({}, ()))
    )
    refusal = str(extras.get("refusal", ""))
    steps = steps_file.read(folder.root)
    left_out = cast("dict[str, str]", extras.get("adapters", {}))
    code = exit_code(seen) or (EXIT_UNHEALTHY if left_out else 0)
    if args.output == "json":
        told = _told(seen, sizes, replicas, refusal)
        told |= {"healthy": code == 0, "adapters_not_taken_in": left_out}
        told["steps"] = {name: asdict(step) for name, step in steps.items()}
        print(json.dumps(told, indent=2))
        return code
    from rich.console import Console

    from consilium.cli import tables

    console = Console()
    console.print(tables.running(cluster, sizes, supervisor=_supervisor_word(seen)))
    if cluster.executors or replicas:
        console.print()
        console.print(tables.executors(cluster.executors, cluster.model, replicas))
        console.print()
    for name, step in steps.items():
        print(
            f"{name}: a step reads up to {step.tokens} tokens of prompts in about {step.seconds:g} s; so long a token may wait for another's prompt"
        )
    if refusal:
        print(f"note: the configuration cannot be used, and the last good one is kept: {refusal}")
    for name in ("openai", "grpc", "metrics"):
        print(f"{name:8} {cluster.addresses[name]}")
    for line in ailing(seen, time.time()) if exit_code(seen) else []:
        print(line)
    for why in left_out.values():
        print(f"degraded: {why}")
    return code


def _elsewhere(root: str, *, as_json: bool) -> int:
    """Print what the gateway at an address says of its executors, and return the exit code."""
    asked = {"gateway": lambda: executors_seen(root, ELSEWHERE_S)}
    seen = side_by_side(asked, ELSEWHERE_S).get("gateway", NO_ANSWER)
    others = any(state != READY for name, state in seen.executors.items())
    code = EXIT_DOWN if seen.why else EXIT_UNHEALTHY if others else 0
    if as_json:
        rows = [{"name": name, "state": state} for name, state in seen.executors.items()]
        found = {"endpoint": root, "healthy": code == 0, "why": seen.why, "executors": rows}
        print(json.dumps(found, indent=2))
        return code
    for name, state in seen.executors.items():
        print(f"{name:12} {'not answering' if state == 'silent' else state}")
    if code:
        print(
            f"{'down' if code == EXIT_DOWN else 'degraded'}: {seen.why or 'an executor is not ready'}"
        )
    return code


def _extras(cluster: Cluster) -> dict[str, object]:
    """Return what is worth a moment, as far as it came."""
    asked: dict[str, Callable[[], object]] = {
        "memory": lambda: weigh(cluster),
        "refusal": lambda: config_refusal(cluster),
        "adapters": lambda: adapters_left_out(cluster),
    }
    return side_by_side(asked, EXTRAS_S)


def adapters_left_out(cluster: Cluster) -> dict[str, str]:
    """Return name -> why the files of a configured adapter could not be taken in; nothing where the room of adapters does not answer, or there is none."""
    address = cluster.addresses.get("http", "")
    status, page = http_get(f"{address}/v1/adapters", key=cluster.key, timeout_s=EXTRAS_S)
    rows = json.loads(page).get("adapters", []) if status == HTTPStatus.OK else []
    return {row["name"]: why for row in rows if (why := adapter_tables.left_out(row))}


def _told(
    seen: Outside, sizes: Mapping[str, int], replicas: tuple[Replica, ...], refusal: str
) -> dict[str, Any]:
    """Return what `--output json` prints."""
    cluster = seen.cluster
    now = time.time()
    return {
        "state": cluster.state,
        "phase": cluster.phase if seen.care is Care.LOOKED_AFTER else UNATTENDED,
        "healthy": exit_code(seen) == 0,
        "supervisor": {
            "care": seen.care.value,
            "looked": round(seen.looked, 1),
            "age_s": round(max(0.0, now - seen.looked), 1) if seen.looked else None,
        },
        "down": down_parts(cluster),
        "model": cluster.model,
        "addresses": {
            name: address for name, address in cluster.addresses.items() if name != "redis"
        },
        "parts": {
            name: {**asdict(part), "pss_bytes": sizes.get(name, 0)}
            for name, part in cluster.parts.items()
        },
        "executors": [{"name": name, "state": state} for name, state in cluster.executors.items()],
        "config_refused": refusal,
        "replicas": [asdict(replica) for replica in replicas],
        "pss_bytes": sum(sizes.values()),
    }


def exit_code(seen: Outside) -> int:
    """Return 0 where all is well, 5 where a vital part does not answer, 3 where anything else is missing."""
    cluster = seen.cluster
    if cluster.phase not in {"starting", "stopping"} and any(
        part.vital and part.state != "up" and not _is_replaced(name, seen)
        for name, part in cluster.parts.items()
    ):
        return EXIT_DOWN
    is_well = (
        seen.care is Care.LOOKED_AFTER
        and cluster.phase == "up"
        and all(part.state == "up" for part in cluster.parts.values())
        and all(state == READY for state in cluster.executors.values())
    )
    return 0 if is_well else EXIT_UNHEALTHY


def _is_replaced(part: str, seen: Outside) -> bool:
    """Say whether a part is missing only because the supervisor is, which is told by itself."""
    return part == "metrics" and seen.care is Care.NOBODY


def _supervisor_word(seen: Outside) -> str:
    return {Care.LOOKED_AFTER: "up", Care.STANDS_STILL: "silent"}.get(seen.care, "crashed")


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
        how = (
            "has not answered since"
            if row["state"] == "silent"
            else f"is {row['state']}, down since"
        )
        lines.append(f"{row['part']} {how} {at} ({now - since:.0f} s){why}")
    return lines


def ailing(seen: Outside, now: float) -> list[str]:
    """Return why the cluster is called degraded, where it answers but lacks something, or down, a line each.

    now  Unix seconds
    """
    cluster = seen.cluster
    word = "down" if exit_code(seen) == EXIT_DOWN else "degraded"
    if cluster.phase in {"starting", "stopping"}:
        word = cluster.phase
    without = [
        f"the executor {name} is {state}"
        for name, state in cluster.executors.items()
        if state != READY and (name != "core" or not down_parts(cluster))
    ]
    found = [*_care_lines(seen, now), *down_lines(cluster, now), *without]
    rows = [
        str(row["part"]) for row in down_parts(cluster) if not _is_replaced(str(row["part"]), seen)
    ]
    wanted = rows or (["engine", "gateway"] if without else ["supervisor"])
    logs = " and ".join(f"'consilium logs {name}'" for name in dict.fromkeys(wanted))
    steps = [f"next: {logs} {'shows' if len(wanted) == 1 else 'show'} what was said."]
    if seen.care is not Care.LOOKED_AFTER:
        steps.insert(0, f"next: {_CARE_STEP[seen.care]}")
    return ["", *(f"{word}: {why}" for why in found or [f"the cluster is {cluster.phase}"]), *steps]


_CARE_STEP: Final = {
    Care.NOBODY: "'consilium up' starts it again, engines included, and looks after it; 'consilium down' stops it. Until then it answers as it is.",
    Care.STANDS_STILL: "let the supervisor go on (kill -CONT its pid), or 'consilium down --now' and 'consilium up'.",
}


def _care_lines(seen: Outside, now: float) -> list[str]:
    """Return who does not look after the cluster, and since when."""
    if seen.care is Care.LOOKED_AFTER:
        return []
    at = time.strftime("%H:%M:%S", time.localtime(seen.looked))
    since = f" since {at} ({now - seen.looked:.0f} s)" if seen.looked else ""
    pid = seen.cluster.supervisor.pid
    if seen.care is Care.STANDS_STILL:
        return [
            f"the supervisor (pid {pid}) has not looked after it{since}; what is shown was asked just now, or is as old as that"
        ]
    return [
        f"it runs, but nobody looks after it{since}: its supervisor (pid {pid}) is gone, so a part that ends is not started again"
    ]
