"""Which processes a CPU engine will spawn, what they import, and which environment vLLM will give them.

A guess of a worker's environment that is wrong costs only the time it would have saved: warm_spawn compares before it uses a child. Only `lone_core` is no guess:
it says what such a core is given. Knows the names of vLLM's
modules and its rule for binding threads to cores (vllm/utils/ompmultiprocessing.py, 0.32). Does not import vLLM.
"""

from __future__ import annotations

import glob
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from consilium.engine.machine import parse_cpu_list, physical_cores
from consilium.engine.placement import BIND
from consilium.engine.warm_spawn import Plan

RESERVED: Final = "VLLM_CPU_NUM_OF_RESERVED_CPU"
SIMULATED: Final = "VLLM_CPU_SIM_MULTI_NUMA"
CORE_MODULES: Final = (
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.engine.async_llm",
)
WORKER_MODULES: Final = (
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
)
THREADS: Final = ("OMP_", "GOMP_", "KMP_")
NO_THREADS: Final = {
    "OPENBLAS_NUM_THREADS": "1"
}  # it starts its threads when NumPy is imported, and a process with threads is not forked
INDUCTOR: Final = {
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_DYNAMIC_THREADS": "1",
}  # vLLM's CPU platform sets them
_GOMP: Final = (("torch", "../torch.libs", "libgomp*.so*"), ("torch", "lib", "libgomp*.so*"))
_TCMALLOC: Final = (
    ("vllm", "libs", "libtcmalloc_minimal*.so*"),
    ("vllm", "libs", "libtcmalloc.so*"),
)
_NODES: Final = Path("/sys/devices/system/node")


def lone_core(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the OpenMP variables of an engine core that is its own only worker, or None where the rule is not known here: then it starts one.

    environment  of the process that will start the engine
    """
    known = _threads(environment, _common(environment), 1)
    return known[0] if known else None


def cpu_engine(environment: Mapping[str, str], ranks: int, *, alone: bool) -> Plan:
    """Return the plan for the engine core of a CPU engine and its workers.

    environment  of the process that will start the engine
    ranks        workers of this engine on this machine
    alone        the core computes by itself if it can (`lone_core`)
    """
    workers = cpu_workers(environment, ranks)
    if not workers:
        return Plan(CORE_MODULES, _common(environment))
    first, modules = workers[0].environment, (*CORE_MODULES, *WORKER_MODULES)
    if alone:
        return Plan(modules, first)
    # The core computes nothing, so it may have been loaded as its first worker is: then one import serves both, and all who are loaded like them.
    then = tuple(replace(worker, forked=worker.environment == first) for worker in workers)
    return Plan(modules, {**first, **NO_THREADS}, then=then, indifferent=THREADS)


def cpu_workers(environment: Mapping[str, str], ranks: int) -> tuple[Plan, ...]:
    """Return the plans for the workers alone, for a process that spawns them itself; empty where their threads are not known."""
    common = _common(environment)
    return tuple(
        Plan(WORKER_MODULES, {**common, **one}) for one in _threads(environment, common, ranks)
    )


def _threads(
    environment: Mapping[str, str], common: Mapping[str, str], ranks: int
) -> tuple[dict[str, str], ...]:
    return thread_environments({**environment, **common}, ranks, allowed_cores(), numa_nodes())


def _common(environment: Mapping[str, str]) -> dict[str, str]:
    preload = preloaded(environment.get("LD_PRELOAD", ""))
    return {**INDUCTOR, **({"LD_PRELOAD": preload} if preload else {})}


def preloaded(before: str) -> str:
    """Return LD_PRELOAD as vLLM's CPU platform leaves it: PyTorch's own OpenMP behind what was there, vLLM's allocator before it."""
    libraries = before
    if not any(name in before for name in ("libomp", "libgomp", "libiomp")) and (
        found := _library(_GOMP)
    ):
        libraries = f"{libraries}:{found}" if libraries else found
    if "libtcmalloc" not in libraries and (found := _library(_TCMALLOC)):
        libraries = f"{found}:{libraries}" if libraries else found
    return libraries


def _library(places: tuple[tuple[str, str, str], ...]) -> str | None:
    for package, folder, pattern in places:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        root = os.path.normpath(Path(spec.origin).parent / folder)
        if found := glob.glob(str(Path(root) / pattern)):  # noqa: PTH207  # the same order as vLLM sees
            return found[0]
    return None


def thread_environments(
    environment: Mapping[str, str], ranks: int, cores: tuple[int, ...], nodes: int
) -> tuple[dict[str, str], ...]:
    """Return the OpenMP variables of each rank, or nothing where the rule is not known here (several NUMA nodes without a list, another OpenMP).

    cores  one logical CPU per physical core, in ascending order
    """
    bind = environment.get(BIND, "auto") or "auto"
    if bind == "nobind":
        return tuple({} for _ in range(ranks))
    preload = environment.get("LD_PRELOAD", "")
    if "libiomp" in preload or "libomp" in preload:
        return ()
    if bind == "auto":
        if (
            ranks != 1
            or nodes != 1
            or environment.get(RESERVED)
            or environment.get(SIMULATED, "0") != "0"
        ):
            return ()
        lists = [
            cores[:-1] if len(cores) > 1 else cores
        ]  # the last core is left to the other processes
    else:
        try:
            lists = [tuple(sorted(set(parse_cpu_list(part)))) for part in bind.split("|")]
        except ValueError:
            return ()
    if len(lists) != ranks:
        return ()
    return tuple(
        {"OMP_NUM_THREADS": str(len(ids)), **_places(ids, gomp="libgomp" in preload)}
        for ids in lists
    )


def _places(ids: tuple[int, ...], *, gomp: bool) -> dict[str, str]:
    if gomp:
        return {"GOMP_CPU_AFFINITY": " ".join(map(str, ids))}
    return {"OMP_PLACES": "{" + ",".join(map(str, ids)) + "}", "OMP_PROC_BIND": "true"}


def allowed_cores() -> tuple[int, ...]:
    """Return the last logical CPU of each physical core that this process may use."""
    return physical_cores(sorted(os.sched_getaffinity(0), reverse=True))


def numa_nodes() -> int:
    """Return how many NUMA nodes there are; 1 where the kernel does not say."""
    return len(list(_NODES.glob("node[0-9]*"))) or 1
