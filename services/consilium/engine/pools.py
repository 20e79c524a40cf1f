"""Which group of nodes an engine is placed on, where the cluster has groups: the chart's worker groups.

The owner names one (`pool`), or there is one that alone has the build of vLLM that the engine needs. Pure. Does not know Ray.
"""

from __future__ import annotations

from dataclasses import replace

from consilium.engine import sharding
from consilium.engine.config import Shape
from consilium.engine.machine import Build, Machine, Node


def pool_of(shape: Shape, machine: Machine, *, device: Build, takes_gpu: bool, key: str) -> str:
    """Return the pool of an engine, or nothing if it may be placed anywhere.

    device     what it computes on: its nodes need that build of vLLM
    takes_gpu  whether Ray books a card for it, and so keeps it off nodes without one

    Raises ConsiliumError(config_invalid) if the pool that the owner names is not there, or has nothing for this engine.
    """
    there = {pool for node in machine.nodes for pool in node.pools}
    fitting = {
        pool for node in machine.nodes for pool in node.pools if _fits(node, machine, device)
    }
    if shape.pool is not None:
        if shape.pool not in there:
            have = ", ".join(sorted(there)) or "no pools"
            raise sharding.invalid(
                f"{key}.pool", f"there is no pool {shape.pool!r}; the cluster has {have}"
            )
        if shape.pool not in fitting:
            raise sharding.invalid(
                f"{key}.pool",
                f"the nodes of the pool {shape.pool!r} have no vLLM for {device}; change its image, or name another pool",
            )
        return shape.pool
    everywhere = all(_fits(node, machine, device) for node in machine.nodes)
    if everywhere or not fitting or takes_gpu:
        return ""
    return min(fitting)


def inside(machine: Machine, pool: str) -> Machine:
    """Return the machine as an engine in a pool sees it; all of it for no pool."""
    if not pool:
        return machine
    return replace(machine, nodes=tuple(node for node in machine.nodes if pool in node.pools))


def indices(machine: Machine, pool: str) -> frozenset[int]:
    """Return the places in `machine.nodes` of the nodes of a pool."""
    return frozenset(at for at, node in enumerate(machine.nodes) if pool in node.pools)


def _fits(node: Node, machine: Machine, device: Build) -> bool:
    return device in dict(machine.builds if node.builds is None else node.builds)
