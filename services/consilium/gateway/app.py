"""The gateway as a process: from the configuration to a Serve application that answers HTTP and gRPC.

    from_config(args)                                one application, as the configuration says; what a RayService names
    build(args)                                      one application
    python -m consilium.gateway.app deploy --config  submits it and returns

The only file here that knows Ray and every concrete class. Each replica also runs the kernel's own gRPC server on the shared port.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import ray
from pydantic import Field, model_validator
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from consilium.embedding.client import Embedding, open_embeddings
from consilium.engine.client import CORE, open_executors
from consilium.engine.config import EngineView
from consilium.gateway import first_key, room_tables, turn
from consilium.gateway.backends.redis import open_stores
from consilium.gateway.config import GatewayView, refuse_unknown_names
from consilium.gateway.forwarding import Forwarding, Reached
from consilium.gateway.gate import Gate
from consilium.gateway.keys import KeyRecord
from consilium.gateway.live_tables import LiveTables, reader
from consilium.gateway.meter import GatewayMeter
from consilium.gateway.room_tables import followers
from consilium.gateway.routes import HttpFace
from consilium.gateway.stores import Stores
from consilium.gateway.wiring import Opened, wire
from consilium.kernel import config_revision, logs
from consilium.kernel.clock import SystemClock, UlidIds
from consilium.kernel.config import (
    Section,
    added_rooms,
    environment_value,
    folder_of,
    internal_token,
    load_view,
    restarts,
)
from consilium.kernel.ending_files import CLOSING, is_closing
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_server import Settings
from consilium.kernel.metrics import of_this_process
from consilium.kernel.metrics_files import forget_ended_here
from consilium.kernel.process import raise_descriptor_limit, run
from consilium.kernel.rooms import LORA_ROUTER, Room, rooms
from consilium.kernel.service_config import Address, ServicesView
from consilium.lora_router.client import LoraRouterClient

APP: Final = "gateway"
DEPLOYMENT: Final = "Gateway"
PLACES: Final = 4096
"""Requests in one gateway process; the gates of the executors refuse long before."""
HEALTH_PERIOD_S: Final = 2.0  # so soon Serve sees that a process is gone
HEALTH_TIMEOUT_S: Final = 30.0
DRAIN_POLL_S: Final = 0.2
UNKNOWN_PLACES: Final = 64

_log = logs.get("gateway")


class View(EngineView, GatewayView, ServicesView):
    """What the gateway reads of the tree."""

    model_config = Section.model_config | {"extra": "ignore"}

    embedding: Embedding = Field(default_factory=Embedding, json_schema_extra=restarts("gateway"))

    @model_validator(mode="after")
    def _names_are_known(self) -> View:
        refuse_unknown_names(self.roles, self.profiles, (CORE, *self.executors))
        return self


class GatewayReplica:
    """One gateway process.

    config  path of the configuration, resolved (.json) or YAML; the file `secret` beside it, or CONSILIUM_SECRET, holds the pepper of key hashes
    """

    async def __init__(self, config: str) -> None:  # type: ignore[misc]  # Serve awaits it
        logs.configure("gateway")
        raise_descriptor_limit()  # a running answer has three: its caller, its replica, and Serve
        logging.getLogger("httpx").setLevel(logging.WARNING)
        view = load_view(View, Path(config))
        clock, ids = SystemClock(), UlidIds()
        tables = LiveTables(Path(config), reader(View), clock)
        self._limits = view.gateway
        self._engines = open_executors(view)
        gate = Gate(UNKNOWN_PLACES)
        forget_ended_here()
        meter = GatewayMeter(of_this_process(), gate)
        self._stores = open_stores(
            view.redis,
            on_state=meter.redis,
            receipt_ttl_s=view.gateway.receipt_ttl_s,
            receipts_max_bytes=view.gateway.receipts_max_bytes,
            responses_max_bytes=view.gateway.responses_max_bytes,
        )
        await _prepare(self._stores)
        folder, first = folder_of(Path(config)), _first_key(Path(config), clock)
        token = _token(view, folder)
        self._tables = followers(rooms(added_rooms()), view.services, token, clock)
        self._router = room_tables.channel(LORA_ROUTER, view.services, token, clock)
        public = (room for room in rooms(added_rooms()) if room.methods or room.prefixes)
        reached = tuple(_reached(room, view.services) for room in public)
        wired = wire(
            Opened(
                limits=view.gateway,
                tables=tables,
                engines=self._engines,
                stores=self._stores,
                embeddings=open_embeddings(view.embedding, self._engines),
                forwarding=Forwarding(reached, token, clock),
                followed=self._tables,
                gate=gate,
                meter=meter,
                clock=clock,
                ids=ids,
                router=None if self._router is None else LoraRouterClient(self._router),
                page=view.services.get("gateway", Address()).metrics,
            ),
            Settings(
                host=view.gateway.host,
                port=view.gateway.grpc_port or 0,
                reflection=view.gateway.reflection,
                reuse_port=True,
                default_deadline_s=view.gateway.request_timeout_s,
            ),
            pepper=_pepper(Path(config)),
            tells_request_id=False,
        )
        self._public, self._desk = wired.public, wired.desk
        self._http, self._grpc = self._public.http, self._public.grpc
        await self._grpc.start()
        self._looking = asyncio.gather(
            wired.watch.run(),
            self._stores.watch(),
            self._desk.run(),
            self._public.watch_rooms(),
            self._drained(folder / CLOSING),
            _put_first_key(first, self._stores, clock),
            wired.adapters.run(),
            *(table.run() for table in self._tables.values()),
        )

    def __serve_build_asgi_app__(self) -> HttpFace:
        """Return the ASGI application; Serve's own server in this replica calls it."""
        return self._http

    async def check_health(self) -> None:
        """Answer Serve: this process is alive when its loop runs. Executors that are down are no reason to restart it."""

    async def _drained(self, file: Path) -> None:
        """Take no new gRPC calls once the file is there, which is how one machine, or a pod, says that it is being stopped; running ones go on."""
        while not is_closing(file):  # noqa: ASYNC110  another process makes it; looking costs microseconds
            await asyncio.sleep(DRAIN_POLL_S)
        self._http.draining = True
        await self._grpc.stop(self._limits.drain_s)

    async def __del__(self) -> None:
        """Let go; Serve calls this once the running HTTP requests are done or their time is over. gRPC streams get the same time."""
        with suppress(AttributeError):
            self._looking.cancel()
            self._http.draining = True
            await self._grpc.stop(self._limits.drain_s)
            await turn.finish_background()
            await self._public.aclose()
            await self._engines.aclose()
            if self._router is not None:
                await self._router.aclose()
            await self._desk.leave()
            await self._stores.close()


def _first_key(config: Path, clock: SystemClock) -> KeyRecord | None:
    """Return the key that the owner of the cluster has made, where there is one. Raises ConsiliumError(config_invalid) for a text that is no key: then no replica starts, and Serve tells why."""
    text = environment_value("CONSILIUM_ADMIN_KEY")
    return None if text is None else first_key.record_of(text, _pepper(config), clock.now())


async def _put_first_key(record: KeyRecord | None, stores: Stores, clock: SystemClock) -> None:
    """Put the owner's key into the store."""
    if record is not None:
        await first_key.put_once(record, stores.keys, clock)


async def _prepare(stores: Stores) -> None:
    """Bring the stored records up to date. Raises ConsiliumError(state_newer); a Redis that is down may come later, and is prepared then."""
    try:
        await stores.prepare()
    except ConsiliumError as error:
        if error.code != "upstream_down":
            raise


def _token(view: View, folder: Path) -> str:
    """Return the internal token; where the cluster has no rooms and no token, one that nobody knows. Raises ConsiliumError(config_invalid)."""
    try:
        return internal_token(folder)
    except ConsiliumError:
        if view.services:
            raise
        return secrets.token_hex(32)


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the Serve application.

    args  config: path of the configuration, the same on every node; replicas; drain_s; num_cpus; place: the custom resource of which each replica takes one
    """
    place = args.get("place")
    actor: dict[str, Any] = {"num_cpus": float(args.get("num_cpus", 0.1))}
    if place:
        actor |= {"num_cpus": 0, "resources": {str(place): 1.0}}
    drain_s = float(args.get("drain_s", 30.0))
    deployment = serve.deployment(serve.ingress()(GatewayReplica), name=DEPLOYMENT).options(
        num_replicas=int(args.get("replicas", 1)),
        max_ongoing_requests=PLACES,
        graceful_shutdown_timeout_s=drain_s,
        graceful_shutdown_wait_loop_s=0.1,
        health_check_period_s=HEALTH_PERIOD_S,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        logging_config={
            "enable_access_log": False
        },  # it knows no paths; routes.py and turn.py write better lines
        ray_actor_options=actor,
    )
    return deployment.bind(str(args["config"]))


def from_config(args: Mapping[str, Any]) -> serve.Application:
    """Return the Serve application, with replicas and times as the configuration says.

    args  config  path of consilium.yaml, the same on every node
          place   custom resource of the nodes that have a place for a gateway, one per replica; without it Serve chooses
          revision  of what a gateway is made from; another one makes Serve start it again, once the pods' files show it

    Raises ConsiliumError(config_invalid).
    """
    logs.configure("gateway")
    config = str(args["config"])
    _seen_everywhere(config, str(args.get("revision", "")), str(args.get("place", "")))
    view = load_view(View, Path(config))
    return build(
        {
            "config": config,
            "replicas": view.gateway.replicas,
            "drain_s": view.gateway.drain_s,
            "place": args.get("place"),
        }
    )


def _seen_everywhere(config: str, revision: str, place: str) -> None:
    """Wait until this pod, and each that has a place for a gateway, shows the configuration of this revision: the gateways that run answer meanwhile."""
    if not config_revision.wait_for(config, APP, revision):
        return
    if not revision or not ray.is_initialized():
        return  # on one machine, and in tests, nobody else has a copy
    wait: Any = ray.remote(num_cpus=0, max_calls=1)(config_revision.wait_for)
    there = [
        NodeAffinitySchedulingStrategy(node_id=str(row["NodeID"]), soft=False)
        for row in ray.nodes()
        if row.get("Alive", True) and row.get("Resources", {}).get(place)
    ]
    asked = [wait.options(scheduling_strategy=at).remote(config, APP, revision) for at in there]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=config_revision.LIMIT_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m consilium.gateway.app")
    commands = parser.add_subparsers(dest="command", required=True)
    deploy = commands.add_parser(
        "deploy", help="submit the gateway of a configuration to Ray Serve"
    )
    deploy.add_argument(
        "--config", required=True, help="configuration: the resolved tree (.json), or YAML"
    )
    chosen = parser.parse_args(argv)
    logs.configure("gateway")
    return run(_Deploy(Path(chosen.config)))


class _Deploy:
    """Submit, and end: Serve brings the replicas up."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def start(self) -> None:
        view = load_view(View, self._config)
        ray.init(log_to_driver=False)
        http: dict[str, Any] = {"host": view.gateway.host}
        if view.gateway.port is not None:
            http["port"] = view.gateway.port
        serve.start(http_options=http)
        application = from_config({"config": str(self._config)})
        serve.run(application, name=APP, route_prefix="/")
        _log.info("gateway_submitted", replicas=view.gateway.replicas)

    async def wait(self) -> None:
        """Nothing is left to do."""

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002  # nothing runs here that could drain
        ray.shutdown()


def _reached(room: Room, services: Mapping[str, Address]) -> Reached:
    """Return a room with the addresses that the configuration has for it."""
    at = services.get(room.name, Address())
    return Reached(room, at.grpc, at.http)


def _pepper(config: Path) -> bytes:
    """Return the pepper of key hashes. Raises ConsiliumError(config_invalid) if there is none."""
    named = environment_value("CONSILIUM_SECRET")
    file = folder_of(config) / "secret"
    if named is None and file.is_file():
        named = file.read_text(encoding="ascii").strip()
    if not named:
        raise ConsiliumError(
            "config_invalid",
            key="CONSILIUM_SECRET",
            reason=f"the secret that key hashes are made with is missing; put it there or into {file}",
        )
    return named.encode()


if __name__ == "__main__":
    sys.exit(main())
