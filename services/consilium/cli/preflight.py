"""What must be right before anything is started, each with its own exit code.

python (73), another cluster in this state folder (70), disk (74), ports (67), GPUs where they are asked for (66), the model's folder (68), the model's size (65),
Redis where one is named (69), keys of remote servers (64).
Knows the checks and their order. Starts nothing.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from consilium.cli.config_tree import ConsiliumConfig
from consilium.engine.config import BUILT_IN_MODELS, EngineExecutor
from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.masking import shown_address
from consilium.kernel.ports import BY_NAME, Claims, Ports, allot_and_claim, owner
from consilium.kernel.rooms import Room
from consilium.supervisor import ending, processes
from consilium.supervisor.loop import hold_lock
from consilium.supervisor.parts import places_of
from consilium.supervisor.state_folder import Cluster, StateFolder

if TYPE_CHECKING:
    from consilium.planner.cards import Card

PYTHON: Final = (3, 11)
LEAST_DISK_BYTES: Final = 512 * 1024 * 1024
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_GIB: Final = 2**30


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Raise ConsiliumError(wrong_python) unless this is the Python that the engine's wheels are made for."""
    if version != PYTHON:
        raise ConsiliumError(
            "wrong_python", seen=f"{version[0]}.{version[1]}", wanted=f"{PYTHON[0]}.{PYTHON[1]}"
        )


def check_disk(folder: Path, free_bytes: int | None = None) -> None:
    """Raise ConsiliumError(disk_full) unless logs, Redis and the demo model have room."""
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    if free < LEAST_DISK_BYTES:
        raise ConsiliumError(
            "disk_full",
            path=str(folder),
            free=f"{free / _GIB:.2f} GiB",
            needed=f"{LEAST_DISK_BYTES / _GIB:.1f} GiB",
        )


def check_alone(folder: StateFolder) -> IO[str]:
    """Take the lock of the state folder for the supervisor that is to come. Raises ConsiliumError(already_running) if one lives here or is being started."""
    lock = hold_lock(folder)
    if lock is None:
        raise ConsiliumError("already_running", state=str(folder.root))
    return lock


def end_leftovers(folder: StateFolder, say: Callable[[str], None]) -> None:
    """End what a crashed supervisor has left behind, be it a cluster that still answers. Call it with the lock held.

    Raises ConsiliumError(part_failed) if something does not end.
    """
    cluster = _last(folder)
    left = ending.family_of(cluster) if cluster is not None else ()
    if cluster is None or not left:
        return
    if cluster.phase in {"up", "degraded"}:
        say(
            f"A cluster runs here that nobody looks after: its supervisor (pid {cluster.supervisor.pid}) is gone. "
            "It is started again, engines included; answers that are being given are cut off."
        )
    say(f"Ending {len(left)} processes that a crash left behind.")
    remaining = ending.end_family(folder, cluster, left, processes.shared_memory(left))
    if remaining:
        raise ConsiliumError(
            "part_failed", name="the last run", reason=f"process {remaining[0].pid} does not end"
        )


def _last(folder: StateFolder) -> Cluster | None:
    """Return the last cluster.json. A damaged one is set aside: without it there is nothing that could be ended."""
    try:
        return folder.read_cluster()
    except ConsiliumError:
        with contextlib.suppress(OSError):
            folder.cluster.rename(folder.cluster.with_suffix(".damaged"))
        return None


def allot_ports(
    tree: ConsiliumConfig, rooms: tuple[Room, ...], say: Callable[[str], None]
) -> tuple[Ports, Claims]:
    """Return a number for every port of the cluster, and the promises of them all, to be handed to the supervisor. Says where the usual port is taken.

    Raises ConsiliumError(port_taken).
    """
    asked = {
        "http": tree.gateway.port,
        "grpc": tree.gateway.grpc_port,
        "metrics": tree.metrics.port,
    }
    skip = ("redis",) if tree.redis.url is not None else ()
    more = tuple(place for room in rooms for place in places_of(room))
    ports, claims = allot_and_claim(asked, skip=skip, more=more)
    usual = BY_NAME["http"].usual
    if tree.gateway.port is None and ports["http"] != usual:
        say(
            f"note: port {usual} is taken by {owner(usual)}; this cluster answers on port {ports['http']}. gateway.port or --port names one."
        )
    return ports, claims


def check_model(tree: ConsiliumConfig) -> None:
    """Raise ConsiliumError(model_missing) for a local folder that is not a whole model, or a name that cannot be one. Downloads nothing."""
    from consilium.supervisor.model_step import models_of

    for name in models_of(tree.model_dump(include={"model", "executors"})):
        if name in BUILT_IN_MODELS:
            continue
        from consilium.demo.hub import REPOSITORY
        from consilium.demo.model import resolve

        if Path(name).expanduser().is_dir() or not REPOSITORY.match(name.partition("@")[0]):
            resolve(name, Path("/nonexistent"))


def check_fit(
    tree: ConsiliumConfig, folder: StateFolder, cards: tuple[Card, ...], say: Callable[[str], None]
) -> None:
    """Raise ConsiliumError(does_not_fit) if the planner refuses an engine of the configuration, before anything is downloaded. Says so when it is tight.

    A model that is neither here nor in the planner's table is not judged.
    """
    import psutil

    from consilium.planner.gate_file import gates, known_config

    def config_of(model: str) -> Path | Mapping[str, object] | None:
        if model in BUILT_IN_MODELS:
            return known_config(model) if model == "demo" else None
        for path in (Path(model).expanduser(), folder.models / model):
            if (path / "config.json").is_file():
                return path
        return known_config(model.partition("@")[0])

    ram = psutil.virtual_memory()
    plain = tree.model_dump(include={"model", "topology", "engine", "executors", "adapters"})
    found = gates(
        plain, cards=cards, ram_bytes=ram.available, ram_total_bytes=ram.total, config_of=config_of
    )
    for name, gate in found:
        if gate.verdict == "no":
            raise ConsiliumError(
                "does_not_fit",
                reason=gate.sentence if name == "core" else f"executors.{name}: {gate.sentence}",
            )
        if gate.verdict == "tight":
            say(f"warning: {name}: {gate.sentence}")


def check_gpus(
    tree: ConsiliumConfig, cards: tuple[Card, ...], why_none: str, say: Callable[[str], None]
) -> None:
    """Raise ConsiliumError(gpu_missing) if the configuration asks for GPUs by name of the device and there are none. Says why there are none."""
    asked = {"topology.device": tree.topology.device}
    asked |= {
        f"executors.{name}.device": executor.device
        for name, executor in tree.executors.items()
        if isinstance(executor, EngineExecutor)
    }
    for key, device in asked.items():
        if device == "gpu" and not cards:
            say(f"note: no GPU is seen: {why_none or 'the planner knows none of the cards'}.")
            raise ConsiliumError("gpu_missing", key=key, asked="1 or more", seen=0)


def check_keys(tree: ConsiliumConfig, say: Callable[[str], None]) -> None:
    """Raise ConsiliumError(config_invalid) if the key of a remote server is not in the environment. Warn where anyone on the network may ask."""
    named = {
        f"executors.{name}.key_env": getattr(executor, "key_env", None)
        for name, executor in tree.executors.items()
    }
    for key, variable in {**named, "embedding.key_env": tree.embedding.key_env}.items():
        if variable and environment_value(variable) is None:
            raise ConsiliumError(
                "config_invalid",
                key=key,
                reason=f"the environment variable {variable} is empty or not set",
            )
    if not tree.gateway.auth and tree.gateway.host not in LOOPBACK:
        say(
            f"warning: gateway.auth is false and gateway.host is {tree.gateway.host}: whoever reaches that address may use this cluster without a key"
        )


def check_redis(tree: ConsiliumConfig) -> None:
    """Raise ConsiliumError(redis_missing) if the Redis of the configuration does not answer."""
    url = tree.redis.address()
    if url is None:
        return
    from redis import RedisError

    from consilium.kernel.redis import ping

    try:
        ping(url, timeout_s=5.0)
    except (RedisError, OSError, ValueError) as err:
        raise ConsiliumError(
            "redis_missing",
            str(err),
            reason=f"redis.url: {shown_address(url)} does not answer ({err})",
        ) from err
