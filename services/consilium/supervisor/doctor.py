"""Checks of the cluster in a state folder: its record, its processes, its ports, its gateway and what that holds of the configuration.

Knows cluster.json and the gateway's open pages. Ends and starts nothing.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, failure, note, ok, warning
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import BY_NAME, is_open, owner
from consilium.supervisor import ending, processes
from consilium.supervisor.probes import http_get
from consilium.supervisor.state_folder import Cluster, StateFolder

HTTP_OK: Final = 200
ANSWER_S: Final = 3.0


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """What a state folder says.

    cluster  its record, or None
    damage   why the record cannot be read, or nothing
    alive    whether its supervisor runs
    family   processes that belong to it and run
    locked   whether some process holds the supervisor's lock
    """

    cluster: Cluster | None = None
    damage: str = ""
    alive: bool = False
    family: int = 0
    locked: bool = False


def _cluster(subject: Subject) -> ClusterSeen:
    folder = StateFolder(subject.state)
    locked = _is_locked(folder)
    try:
        cluster = folder.read_cluster()
    except ConsiliumError as error:
        return ClusterSeen(damage=error.public(), locked=locked)
    if cluster is None:
        return ClusterSeen(locked=locked)
    alive = cluster.boot == processes.boot_id() and processes.is_alive(cluster.supervisor)
    return ClusterSeen(cluster, "", alive, len(ending.family_of(cluster)), locked)


def _is_locked(folder: StateFolder) -> bool:
    """Look whether somebody holds the lock; it is held for no longer than the look takes."""
    try:
        with folder.lock.open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
    except OSError:
        return False
    return False


CLUSTER: Final = Fact("cluster", "The cluster of the state folder", _cluster, limit_s=4.0)


@dataclass(frozen=True, slots=True)
class Port:
    """A port that the configuration names, or the usual one of the HTTP face. `owner` has it, or nobody."""

    key: str
    number: int
    named: bool
    owner: str


def _ports(subject: Subject) -> tuple[Port, ...]:
    named = dict.fromkeys(_PORT_KEYS)
    if subject.tree is not None:
        for key in named:
            section, _, name = key.partition(".")
            named[key] = getattr(getattr(subject.tree, section, None), name, None)
    rows = [(key, number, True) for key, number in named.items() if number is not None]
    if named["gateway.port"] is None:
        rows.append(("gateway.port", BY_NAME["http"].usual, False))
    return tuple(
        Port(key, number, is_named, "" if is_open(number) else owner(number))
        for key, number, is_named in rows
    )


_PORT_KEYS: Final[tuple[str, ...]] = ("gateway.port", "gateway.grpc_port", "metrics.port")
PORTS: Final = Fact("ports", "The ports", _ports, limit_s=4.0)


@dataclass(frozen=True, slots=True)
class GatewaySeen:
    """What the gateway of a running cluster answers: /ready, and what its replicas hold of the configuration."""

    status: int
    ready: Mapping[str, Any]
    held: Mapping[str, Any]


def _gateway(subject: Subject) -> GatewaySeen | None:
    seen = _cluster(subject)
    if seen.cluster is None or not seen.alive:
        return None
    address, key = seen.cluster.addresses.get("http", ""), seen.cluster.key
    status, body = http_get(f"{address}/ready", timeout_s=ANSWER_S)
    _, page = http_get(f"{address}/v1/config", key=key, timeout_s=ANSWER_S)
    return GatewaySeen(status, _object(body), _object(page))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


GATEWAY: Final = Fact("gateway", "The gateway of the running cluster", _gateway, limit_s=9.0)


def _is_running(facts: Facts) -> bool:
    return facts[CLUSTER].alive


def _record(facts: Facts) -> Verdict:
    damage = facts[CLUSTER].damage
    return failure(damage=damage) if damage else ok()


def _left(facts: Facts) -> Verdict:
    return warning(count=facts[CLUSTER].family) if facts[CLUSTER].family else ok()


def _lock(facts: Facts) -> Verdict:
    return warning() if facts[CLUSTER].locked else ok()


def _parts(facts: Facts) -> Verdict:
    cluster = facts[CLUSTER].cluster
    assert cluster is not None  # noqa: S101  the row applies to a running cluster only
    down = [
        f"{name} is {part.state}" + (f" ({part.detail})" if part.detail else "")
        for name, part in cluster.parts.items()
        if part.state != "up"
    ]
    said = {"phase": cluster.phase, "down": "; ".join(down), "count": len(cluster.parts)}
    if cluster.phase in {"starting", "stopping"}:
        return note(**{**said, "down": f"the cluster is {cluster.phase}"})
    return failure(**said) if down else ok(**said)


def _restarts(facts: Facts) -> Verdict:
    cluster = facts[CLUSTER].cluster
    assert cluster is not None  # noqa: S101  the row applies to a running cluster only
    often = [f"{name} {p.restarts} x" for name, p in cluster.parts.items() if p.restarts]
    return warning(often=", ".join(often)) if often else ok()


def _named_ports(facts: Facts) -> Verdict:
    taken = [port for port in facts[PORTS] if port.owner and port.named]
    told = "; ".join(f"{port.key} is {port.number}, taken by {port.owner}" for port in taken)
    return failure(told=told) if taken else ok()


def _usual_port(facts: Facts) -> Verdict:
    for port in facts[PORTS]:
        if port.owner and not port.named:
            return note(number=port.number, owner=port.owner)
    return ok()


def _answers(facts: Facts) -> Verdict:
    seen = facts[GATEWAY]
    if seen is None or seen.status == 0:
        return failure(why="it does not answer")
    if seen.status == HTTP_OK:
        return ok()
    executors = seen.ready.get("executors")
    rows = executors.items() if isinstance(executors, Mapping) else ()
    down = ", ".join(f"{name} is {state}" for name, state in rows if state != "ready")
    return failure(why=f"it is not ready ({down or f'HTTP {seen.status}'})")


def config_refusal(cluster: Cluster) -> str:
    """Return why a gateway of a running cluster keeps an older configuration than its file holds, or nothing; also where it does not answer."""
    address = cluster.addresses.get("http", "")
    _, page = http_get(f"{address}/v1/config", key=cluster.key, timeout_s=ANSWER_S)
    return _refused(_rows(_object(page)))


def _rows(held: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = held.get("replicas")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _refused(rows: list[Mapping[str, Any]]) -> str:
    return next((str(row["refused"]) for row in rows if row.get("refused")), "")


def _replicas(facts: Facts) -> list[Mapping[str, Any]]:
    seen = facts[GATEWAY]
    return _rows(seen.held) if seen is not None else []


def _config_taken(facts: Facts) -> Verdict:
    why = _refused(_replicas(facts))
    return failure(why=why) if why else ok(count=len(_replicas(facts)))


def _config_alike(facts: Facts) -> Verdict:
    held = [json.dumps(row.get("versions"), sort_keys=True) for row in _replicas(facts)]
    said = {"count": len(held), "kinds": len(set(held))}
    return warning(**said) if len(set(held)) > 1 else ok(**said)


def _config_pending(facts: Facts) -> Verdict:
    keys = sorted({str(key) for row in _replicas(facts) for key in row.get("pending") or ()})
    return warning(keys=", ".join(keys)) if keys else ok()


ROWS: Final = (
    Row(
        "cluster_record",
        "record of the cluster",
        (CLUSTER,),
        _record,
        "{damage}",
        "'consilium down' ends what runs; then delete the file that is named, and start again.",
    ),
    Row(
        "leftovers",
        "left processes",
        (CLUSTER,),
        _left,
        "{count} processes of a cluster that crashed still run",
        "'consilium down' ends them; 'consilium up' does so before it starts.",
        when=lambda facts: facts[CLUSTER].cluster is not None and not _is_running(facts),
    ),
    Row(
        "lock",
        "lock of the state folder",
        (CLUSTER,),
        _lock,
        "another process holds the lock of this state folder, and no cluster runs in it: one is being started or ended",
        "Wait until it is done, and look again.",
        when=lambda facts: not _is_running(facts),
    ),
    Row(
        "parts",
        "parts of the cluster",
        (CLUSTER,),
        _parts,
        "{down}",
        "'consilium logs' followed by the part's name shows what it said.",
        "{count} are up",
        when=_is_running,
    ),
    Row(
        "restarts",
        "restarts",
        (CLUSTER,),
        _restarts,
        "these parts were started again: {often}",
        "'consilium logs' followed by the part's name shows why.",
        when=_is_running,
    ),
    Row(
        "ports",
        "ports that are named",
        (PORTS, CLUSTER),
        _named_ports,
        "{told}",
        "Stop that program, give another port, or leave the port out so that a free one is taken.",
        when=lambda facts: not _is_running(facts),
    ),
    Row(
        "usual_port",
        "usual port",
        (PORTS, CLUSTER),
        _usual_port,
        "port {number} is taken by {owner}; the cluster will answer on another",
        "gateway.port or --port names one.",
        when=lambda facts: not _is_running(facts),
    ),
    Row(
        "gateway",
        "gateway",
        (CLUSTER, GATEWAY),
        _answers,
        "{why}",
        "'consilium logs gateway' and 'consilium logs engine' show what they say.",
        "it answers, and the core is ready",
        when=_is_running,
    ),
    Row(
        "config_taken",
        "configuration of the running cluster",
        (CLUSTER, GATEWAY),
        _config_taken,
        "the file cannot be used, and the last good one is kept: {why}",
        "Correct the file; 'consilium apply' writes it whole.",
        "{count} replicas hold it",
        when=lambda facts: _is_running(facts) and bool(_replicas(facts)),
    ),
    Row(
        "config_alike",
        "replicas of the gateway",
        (CLUSTER, GATEWAY),
        _config_alike,
        "{count} replicas hold {kinds} versions of the configuration",
        "Look again in a few seconds; if it stays so, 'consilium logs gateway' says why.",
        when=lambda facts: _is_running(facts) and len(_replicas(facts)) > 1,
    ),
    Row(
        "config_pending",
        "changes that wait for a restart",
        (CLUSTER, GATEWAY),
        _config_pending,
        "the file says something else than the gateway was started with: {keys}",
        "'consilium down && consilium up' takes them over.",
        when=lambda facts: _is_running(facts) and bool(_replicas(facts)),
    ),
)
