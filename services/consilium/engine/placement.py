"""Where the ranks of one engine go: bundles for Ray, cores for the ranks.

Pure arithmetic over counts. Knows nodes as numbers of cards and cores. Does not know Ray, models or the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Strategy = Literal["PACK", "STRICT_SPREAD"]
BIND: Final = "VLLM_CPU_OMP_THREADS_BIND"
"""Where vLLM reads which cores the ranks of an engine compute on."""


@dataclass(frozen=True, slots=True)
class Bundles:
    """What one replica asks of Ray.

    bundles   one per node of the engine; the first is the replica's own
    strategy  PACK in a node, STRICT_SPREAD (one bundle per node) across nodes
    """

    bundles: tuple[dict[str, float], ...]
    strategy: Strategy


POOL_SHARE: Final = 0.001
"""What a bundle asks of its pool's resource, of which each node has one: being there, and no more."""


def bundles(*, ranks: int, nodes: int, gpu: bool, cpus_per_node: float, pool: str = "") -> Bundles:
    """Return the bundles of one replica.

    ranks          tensor parallel x pipeline parallel, divisible by `nodes`
    nodes          nodes over which the replica is spread
    gpu            whether a rank takes a card
    cpus_per_node  CPUs that Ray books for the replica on each node, may be a fraction
    pool           Ray's name of the pool that it stays in, or nothing
    """
    one: dict[str, float] = {"CPU": cpus_per_node}
    if pool:
        one[pool] = POOL_SHARE
    if gpu:
        one["GPU"] = float(ranks // nodes)
    return Bundles(tuple(dict(one) for _ in range(nodes)), "STRICT_SPREAD" if nodes > 1 else "PACK")


def booked_cpus(*, node_cpus: float, engines_on_node: int, ranks_per_node: int) -> float:
    """Return the CPUs that one engine books on one node.

    Bookings are a ledger, not a limit: on a small machine they shrink, so that nothing waits for a core that nobody uses. Engines together
    take at most half of the node, and one engine at most one CPU per rank.
    """
    fair = node_cpus / 2 / max(1, engines_on_node)
    booked = min(float(ranks_per_node), fair)
    return max(0.01, int(booked * 100) / 100)


def core_groups(
    cores: Sequence[int], groups: int, per_group: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Split the cores among `groups` ranks.

    cores      ids in NUMA order
    per_group  cores of each rank; None = an even share, one core left over for the front-ends where there are more cores than ranks
    returns    one tuple per rank; ranks share cores where there are too few

    Ranks keep neighbouring cores, so a rank stays in its NUMA node where the sizes allow it.
    """
    if not cores or groups < 1:
        return ()
    if per_group is None:
        spare = 1 if len(cores) > groups else 0
        per_group = max(1, (len(cores) - spare) // groups)
    wanted = per_group * groups
    if wanted <= len(cores):
        return tuple(tuple(cores[i * per_group : (i + 1) * per_group]) for i in range(groups))
    return tuple(
        tuple(sorted({cores[(i * per_group + k) % len(cores)] for k in range(per_group)}))
        for i in range(groups)
    )


def bind_string(groups: Sequence[Sequence[int]]) -> str:
    """Return the groups as vLLM wants them in BIND: one list per rank, "0,1|2,3"."""
    return "|".join(",".join(str(core) for core in group) for group in groups)


@dataclass(frozen=True, slots=True)
class Want:
    """What one engine asks of the cluster, for the count of free cards: `copies` x `nodes` x `per_node` cards.

    among  indices of the nodes that it may be placed on; None = all
    """

    name: str
    copies: int
    nodes: int
    per_node: int
    among: frozenset[int] | None = None


def unplaced(free: Sequence[int], wants: Sequence[Want]) -> Want | None:
    """Return the first engine that finds no room, or None if all fit.

    free   free cards per node
    wants  engines; those bound to some nodes first, then those that need most on one node, each copy on `nodes` different nodes
    """
    left = list(free)
    for want in sorted(wants, key=lambda w: (w.among is None, -w.per_node, -w.nodes)):
        for _ in range(want.copies):
            # Fullest node that still fits: keeps large holes for large engines.
            fitting = sorted(
                (
                    i
                    for i, cards in enumerate(left)
                    if cards >= want.per_node and (want.among is None or i in want.among)
                ),
                key=lambda i: left[i],
            )
            if len(fitting) < want.nodes:
                return want
            for i in fitting[: want.nodes]:
                left[i] -= want.per_node
    return None
