"""The nodes of a cluster that somebody else starts, such as an operator in Kubernetes: waits until they are there, and asks each what it has.

Knows Ray's table of nodes and its tasks. Does not know what is placed on the nodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from consilium.engine.machine import Machine, address_of, from_ray, lends, local
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

T = TypeVar("T")
Row: TypeAlias = Mapping[str, Any]

POLL_S: Final = 1.0
TELL_S: Final = 60.0
ASK_S: Final = 120.0
"""Seconds that a node has to answer what it has: its first worker imports this package."""

_log = logs.get("engine")


def wait_for(
    nodes: int,
    gpus: int,
    rows: Callable[[], Sequence[Row]],
    *,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> list[Row]:
    """Return the computing nodes once there are as many, with as many cards, as the owner of the cluster has asked for.

    It waits as long as that takes: a node that is bought or started tomorrow is found tomorrow. Once a minute the log says what is missing.
    """
    told = now()
    while True:
        there = [row for row in rows() if lends(row)]
        cards = sum(int(row["Resources"].get("GPU", 0)) for row in there)
        if len(there) >= nodes and cards >= gpus:
            return there
        if now() - told >= TELL_S:
            told = now()
            _log.warning("nodes_missing", nodes=len(there), of=nodes, gpus=cards, of_gpus=gpus)
        pause(POLL_S)


def look(rows: Sequence[Row]) -> Machine:
    """Return the cluster, each node as it sees itself. Raises ConsiliumError(upstream_down) if one does not answer in time."""
    here = local()
    asked = {address_of(row): _ask(row, local) for row in rows}
    seen = {address: _answer(task, address) for address, task in asked.items()}
    return from_ray(rows, here, seen)


def on_node(row: Row, action: Callable[..., T], *words: Any) -> T:
    """Return what an action gives on one node, which has the models where it will need them."""
    found: T = _answer(_ask(row, action, *words), address_of(row), limit_s=None)
    return found


def _ask(row: Row, action: Callable[..., T], *words: Any) -> Any:
    there = NodeAffinitySchedulingStrategy(node_id=str(row["NodeID"]), soft=False)
    task: Any = ray.remote(num_cpus=0, max_calls=1)(action)
    return task.options(scheduling_strategy=there).remote(*words)


def _answer(task: Any, address: str, limit_s: float | None = ASK_S) -> Any:
    try:
        return ray.get(task, timeout=limit_s)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ConsiliumError):
            raise error.cause from None
        raise
    except ray.exceptions.GetTimeoutError:
        raise ConsiliumError(
            "upstream_down",
            f"no answer in {limit_s} s",
            name=f"The node {address}",
            retry_after_s=10.0,
        ) from None
