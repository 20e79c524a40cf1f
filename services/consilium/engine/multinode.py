"""One engine over several nodes: vLLM's multi-node `mp` executor, the leader in a Serve replica, a follower actor on each other node.

    leader (Serve replica)   bundle 0 of its placement group; AsyncLLM with node_rank 0; its ranks talk to the followers' over master_addr:master_port
    follower (actor)         bundle 1, 2 ..; what `vllm serve --headless --node-rank n` does: a MultiprocExecutor without an engine

Nobody outlives the others: a follower that ends is reported to the leader, which ends itself, and Serve starts a new group; followers belong to the
leader, and Ray ends them with it. Works with NCCL on cards and gloo on CPU. Does not know models or topologies.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from consilium.engine import cards_held, heavy_imports, launch_args
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import set_variable

_log = logs.get("engine")

_HOST_IP: Final = "VLLM_HOST_IP"  # vLLM would ask the route to 8.8.8.8; Ray knows by which address the nodes see each other


class Follower:
    """The ranks of one node that does not lead. An actor: Ray places it, and ends it with its owner."""

    def run(self, args: Mapping[str, Any], name: str, replica: str) -> str:
        """Start this node's ranks and return why they ended; that is never a success, a follower lives as long as its leader."""
        cards_held.tell(name, replica)
        set_variable(_HOST_IP, ray.util.get_node_ip_address())
        heavy_imports.load("vllm.v1.executor.multiproc_executor")
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.executor.multiproc_executor import MultiprocExecutor

        from consilium.engine.backends import vllm_config

        executor = MultiprocExecutor(
            vllm_config.create(AsyncEngineArgs(**args), headless=True), monitor_workers=False
        )
        executor.start_worker_monitor(inline=True)
        return "a rank ended"


class FileKeeper:
    """Holds the files of adapters on a node that does not lead. An actor beside the follower, whose ranks read them.

    limits  fields of AdapterLimits
    """

    def __init__(self, router: Mapping[str, str], limits: Mapping[str, float]) -> None:
        from consilium.engine.adapter_ports import AdapterLimits
        from consilium.engine.backends.adapter_link import open_files

        _, self._files = open_files(router, AdapterLimits(**limits))
        self._held: defaultdict[str, list[AsyncExitStack]] = defaultdict(list)

    async def hold(self, target: Mapping[str, Any]) -> None:
        """Return when the files are on this node, read through and right; they stay until `let_go`. Raises ConsiliumError."""
        from consilium.engine.adapter_ports import AdapterTarget

        asked = AdapterTarget(**target)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._files.held(asked))
            self._held[asked.sha].append(stack.pop_all())

    async def let_go(self, sha: str) -> None:
        """End what `hold` began, if it came so far."""
        if self._held[sha]:
            await self._held[sha].pop().aclose()


class Followers:
    """The followers of one leader. Keep it: without it Ray ends the actors."""

    def __init__(self, runs: Mapping[int, Any], actors: list[Any], group: PlacementGroup) -> None:
        self._runs = dict(runs)
        self._actors = actors
        self._group = group
        self._watchers: set[asyncio.Task[None]] = set()

    def watch(self, on_lost: Callable[[BaseException], None]) -> None:
        """Call `on_lost` once for each follower that ends, with an error that names it. Must be called in the leader's event loop."""
        for rank, run in self._runs.items():
            self._watchers.add(asyncio.create_task(_wait(rank, run, on_lost)))

    def keepers(self, router: Mapping[str, str], limits: Mapping[str, float]) -> list[Any]:
        """Start an actor for the files of adapters on each node of a follower, and return them."""
        keepers = [_keeper(self._group, rank, router, limits) for rank in self._runs]
        self._actors += keepers
        return keepers

    def end(self) -> None:
        """End all followers; no longer report them as lost."""
        for watcher in self._watchers:
            watcher.cancel()
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def is_spread(args: Mapping[str, Any]) -> bool:
    """Whether these engine arguments ask for more than one node."""
    return int(args.get(_words()["nodes"], 1)) > 1


def lead(args: Mapping[str, Any], name: str, replica: str) -> tuple[dict[str, Any], Followers]:
    """Start the followers and return the leader's own arguments with them.

    name, replica  the executor and its copy whose followers they are, for the metrics

    Must run in an actor whose placement group has one bundle per node. The followers come up while the leader does; vLLM's own rendezvous brings
    them together. Raises ConsiliumError(part_failed) if there is no such placement group.
    """
    nodes = int(args[_words()["nodes"]])
    version = launch_args.installed_version() or launch_args.PINNED
    group = ray.util.get_current_placement_group()
    if group is None or group.bundle_count < nodes:
        have = 0 if group is None else group.bundle_count
        raise ConsiliumError(
            "part_failed",
            name="engine",
            reason=f"it spreads over {nodes} nodes and its placement group has {have} bundles",
        )
    address = ray.util.get_node_ip_address()
    set_variable(_HOST_IP, address)
    port = _free_port(address)
    actors, runs = [], {}
    for rank in range(1, nodes):
        actor = _place(group, rank)
        runs[rank] = actor.run.remote(
            launch_args.on_node(args, rank=rank, address=address, port=port, version=version),
            name,
            replica,
        )
        actors.append(actor)
    _log.info("followers_started", nodes=nodes, master=f"{address}:{port}")
    return launch_args.on_node(
        args, rank=0, address=address, port=port, version=version
    ), Followers(runs, actors, group)


def _words() -> Mapping[str, str]:
    return launch_args.table(launch_args.installed_version() or launch_args.PINNED)


def _place(group: PlacementGroup, bundle: int) -> Any:
    wants = group.bundle_specs[bundle]
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=bundle
    )
    options = {
        "num_cpus": wants.get("CPU", 0),
        "num_gpus": wants.get("GPU", 0),
        "scheduling_strategy": strategy,
    }
    return ray.remote(Follower).options(**options).remote()


def _keeper(
    group: PlacementGroup, bundle: int, router: Mapping[str, str], limits: Mapping[str, float]
) -> Any:
    strategy = PlacementGroupSchedulingStrategy(
        placement_group=group, placement_group_bundle_index=bundle
    )
    options = {"num_cpus": 0, "scheduling_strategy": strategy}
    return ray.remote(FileKeeper).options(**options).remote(dict(router), dict(limits))


async def _wait(rank: int, run: Any, on_lost: Callable[[BaseException], None]) -> None:
    try:
        why = str(await run)
    except Exception as error:
        why = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    on_lost(
        ConsiliumError(
            "upstream_down",
            f"follower {rank} of the engine is gone: {why}",
            name=f"node {rank} of the engine",
            retry_after_s=5.0,
        )
    )


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
