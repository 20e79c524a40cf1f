"""The table of the parts of a cluster on one machine: one row makes a part. Nobody else lists them.

A room (kernel/rooms.py) becomes a row by itself. Knows what each part is, needs and is owed. Does not know what it is made of (factories.py), nor when it is due
(states.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consilium.kernel import gpus
from consilium.kernel.config import added_rooms
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.ports import Place, room_places
from consilium.kernel.rooms import Room, rooms
from consilium.supervisor import factories
from consilium.supervisor.factories import LOOPBACK, CoreWork, MetricsWork, Site, public_redis
from consilium.supervisor.gateway_link import wait_until_idle
from consilium.supervisor.loop import Supervisor
from consilium.supervisor.part_process import Work
from consilium.supervisor.ray_logs import RayLogs
from consilium.supervisor.state_folder import Cluster, PartRecord, StateFolder
from consilium.supervisor.states import Part, ending_order

SUPERVISOR: Final = "supervisor"
"""What looks after the parts. It is none, but has a log and a weight as they do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Part):
    """One part with all that is to be known of it; states.Part says what the board needs.

    words    what it is, in a few words, which `up` shows while it starts
    make     what makes its work
    address  what `status` shows
    ports    names of its rows in the table of ports
    log      the part whose log tells of it; empty = it has its own
    ray      what Ray's workers write for it
    """

    words: str
    make: Callable[[Site], Work]
    address: Callable[[Site], str] = lambda _site: ""
    ports: tuple[str, ...] = ()
    log: str = ""
    ray: RayLogs = RayLogs()  # noqa: RUF009  frozen


OURS: Final[tuple[Row, ...]] = (
    Row(
        name="redis",
        words="Redis: keys, quotas, receipts",
        make=factories.redis,
        address=lambda site: public_redis(site.address("redis")),
        ports=("redis",),
        stop_s=10.0,  # it writes what it holds
        silent_s=60.0,  # ended, it may lose a second of writes; it stands still for seconds while it rewrites its file on a slow disk
    ),
    Row(
        name="ray",
        words="Ray: places and watches the engines",
        make=factories.ray,
        address=lambda site: site.address("ray"),
        ports=(
            "ray",
            "ray_object_manager",
            "ray_node_manager",
            "ray_client",
            "ray_dashboard",
            "ray_agent_http",
            "ray_agent_grpc",
            "ray_runtime_env",
            "ray_metrics",
        ),
        ray=RayLogs(
            actors=("Serve", "Proxy", "HAProxy"),
            files=("gcs_server.err", "raylet.err", "ray_process_exit.log"),
        ),
        # No silent_s: its end is the end of every engine and every running answer, and it watches its own processes.
    ),
    Row(
        name="model",
        words="model files",
        make=factories.model,
        lives=False,
        # No silent_s: a download may stand still for minutes, and gives up by itself.
    ),
    Row(
        name="engine",
        words="engines handed to Ray",
        make=factories.engine,
        lives=False,
        within=("ray",),  # it waits by itself for Ray and the model, and imports meanwhile
        ray=RayLogs(actors=("ServeReplica:executor-", "")),
    ),
    Row(
        name="gateway",
        words="OpenAI HTTP and gRPC",
        make=factories.gateway,
        address=lambda site: f"{site.address('http')} and {site.address('grpc')} (gRPC)",
        ports=(
            "http",
            "grpc",
            "haproxy_stats",
            "haproxy_metrics",
            "serve_fallback_http",
            "serve_fallback_grpc",
            "serve_ingress_http",
            "serve_ingress_grpc",
        ),
        needs=("ray", "redis", "engine"),
        lives=False,
        within=("ray",),
        ray=RayLogs(actors=("ServeReplica:gateway",)),
    ),
    Row(
        name="core",
        words="the core answers",
        make=CoreWork,
        needs=("engine", "gateway"),
        lives=False,
        within=("ray",),
        log="engine",
    ),
    Row(
        name="metrics",
        words="Prometheus page",
        make=factories.metrics,
        address=lambda site: site.address("metrics"),
        ports=("metrics",),
        log=SUPERVISOR,
    ),
)
"""The parts that every cluster has. Those of Serve (engine, gateway, core) have no process of their own here: Serve watches its replicas and starts them again."""


def row_of_room(room: Room) -> Row:
    """Return the row of one room."""
    return Row(
        name=room.name,
        words=room.words or f"the room {room.name}",
        make=factories.room_work(room),
        address=lambda site: _shown(site, room),
        ports=tuple(place.name for place in places_of(room)),
        needs=room.needs,
        vital=room.vital,
        stop_s=room.stop_s,
        silent_s=room.silent_s,
        not_ready_s=room.not_ready_s,
        claims=room.claims,
    )


def places_of(room: Room) -> tuple[Place, ...]:
    """Return the ports of one room."""
    return room_places(room.name, http=bool(room.prefixes))


def known_rooms() -> tuple[Room, ...]:
    """Return the rooms of this cluster: ours, and those that CONSILIUM_ROOMS names; without those that are of no use on this machine.

    Raises ConsiliumError(config_invalid) if one cannot be a part.
    """
    all_rooms = rooms(added_rooms())
    has_gpus = any(room.with_gpus for room in all_rooms) and gpus.has_driver()
    found = tuple(room for room in all_rooms if has_gpus or not room.with_gpus)
    table(found)
    return found


def table(added: tuple[Room, ...]) -> tuple[Row, ...]:
    """Return the whole table. Raises ConsiliumError(config_invalid) for a room whose name is taken, or that needs what is not there."""
    rows = (*OURS, *(row_of_room(room) for room in added))
    names = {row.name for row in rows}
    for room in added:
        reason = ""
        if room.name in {SUPERVISOR, *(row.name for row in OURS)}:
            reason = f"the room {room.name!r} has the name of a part"
        elif unknown := [need for need in room.needs if need not in names]:
            reason = f"the room {room.name!r} needs {unknown[0]!r}, which is no part"
        elif room.vital and any(not row.vital for row in rows if row.name in room.needs):
            reason = f"the room {room.name!r} is vital and needs one that is not"
        if reason:
            raise ConsiliumError("config_invalid", key="CONSILIUM_ROOMS", reason=reason)
    try:
        ending_order(rows)
    except ValueError as err:
        raise ConsiliumError("config_invalid", key="CONSILIUM_ROOMS", reason=str(err)) from None
    return rows


def services(added: tuple[Room, ...], ports: dict[str, int]) -> dict[str, dict[str, str]]:
    """Return the section `services` of config.json: where each room listens, and is found."""
    found = {}
    for room in added:
        at = {
            kind: f"{LOOPBACK}:{ports[name]}"
            for kind in ("grpc", "http", "metrics")
            if (name := f"{room.name}_{kind}") in ports
        }
        found[room.name] = {
            kind: address if kind == "grpc" else f"http://{address}" for kind, address in at.items()
        }
    return found


def ray_logs_of(rows: tuple[Row, ...] = OURS) -> dict[str, RayLogs]:
    """Return what Ray's workers write, by part."""
    return {row.name: row.ray for row in rows}


def _shown(site: Site, room: Room) -> str:
    ports = site.cluster.ports
    http = f" and http://{LOOPBACK}:{ports[f'{room.name}_http']}" if room.prefixes else ""
    return f"{LOOPBACK}:{ports[f'{room.name}_grpc']} (gRPC){http}"


def assemble(folder: StateFolder, cluster: Cluster) -> Supervisor:
    """Return the supervisor of one state folder, nothing started yet. Raises ConsiliumError(config_invalid) if a room cannot be a part."""
    secret = folder.secret.read_text(encoding="ascii")
    config = json.loads(folder.config.read_text(encoding="utf-8"))
    site = Site(folder, cluster, config, secret, known_rooms())
    rows = table(site.rooms)
    works = {row.name: row.make(site) for row in rows}
    claims = any(row.claims for row in rows)
    supervisor = Supervisor(
        folder=folder,
        cluster=cluster,
        parts=rows,
        works=works,
        told={
            row.name: PartRecord(address=row.address(site), words=row.words, log=row.log)
            for row in rows
        },
        drain=lambda: wait_until_idle(folder, site.config, claims=claims),
    )
    for work in works.values():
        if isinstance(work, CoreWork):
            work.tell = supervisor.learn
        elif isinstance(work, MetricsWork):
            work.look_at(supervisor.parts_up)
    return supervisor
