"""The gateway put together: from what a process has opened to the faces that answer. The process and the tests call the same.

Knows which part needs which. Does not know configuration files, Ray, or which stores and engines they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consilium.engine.client import EngineClient
from consilium.gateway import adapter_rows
from consilium.gateway.adapters import Adapters, Router
from consilium.gateway.authority import Authority
from consilium.gateway.cast import Cast
from consilium.gateway.config import Gateway
from consilium.gateway.config_desk import ConfigDesk
from consilium.gateway.executor_states import Watch
from consilium.gateway.face import Embedder, Face
from consilium.gateway.forwarding import Forwarding
from consilium.gateway.gate import Gate
from consilium.gateway.live_tables import LiveTables
from consilium.gateway.meter import GatewayMeter
from consilium.gateway.public_face import PublicFace
from consilium.gateway.stores import Stores
from consilium.kernel.clock import Clock, Ids
from consilium.kernel.grpc_server import Settings
from consilium.kernel.table_client import TableFollower


@dataclass(frozen=True, slots=True)
class Opened:
    """What the gateway stands on, opened by whoever wires it and closed by them too.

    limits    the section `gateway`
    tables    roles and profiles as they are now
    followed  tables of rooms, by name
    gate      with the places of executors that were not asked yet
    page      address of the page that /v1/metrics tells
    router    the room of adapters; None where there is none
    """

    limits: Gateway
    tables: LiveTables
    engines: EngineClient
    stores: Stores
    embeddings: Embedder
    forwarding: Forwarding
    followed: Mapping[str, TableFollower]
    gate: Gate
    meter: GatewayMeter
    clock: Clock
    ids: Ids
    page: str = ""
    router: Router | None = None


@dataclass(frozen=True, slots=True)
class Wired:
    """The gateway. `public` answers once its gRPC server was started; `watch`, `desk`, `adapters` and `public` have loops, which whoever wired it runs."""

    face: Face
    public: PublicFace
    watch: Watch
    desk: ConfigDesk
    adapters: Adapters


def wire(opened: Opened, grpc: Settings, *, pepper: bytes, tells_request_id: bool = True) -> Wired:
    """Return the gateway. Nothing is started.

    grpc              settings of its gRPC server
    pepper            of the key hashes
    tells_request_id  as for HttpFace

    Raises ConsiliumError(config_invalid) if a room's row names a path that is taken, or a method that its proto does not have.
    """
    limits, stores, clock, ids = opened.limits, opened.stores, opened.clock, opened.ids
    authority = Authority(
        stores.keys,
        pepper=pepper,
        clock=clock,
        cache_s=limits.key_cache_s,
        required=limits.auth,
    )
    adapters = Adapters(
        opened.followed.get(adapter_rows.TABLE), opened.embeddings, opened.router, clock
    )
    cast = Cast(
        engine=opened.engines,
        frames=opened.tables.frames,
        profiles=opened.tables.profiles,
        limits=limits,
        gate=opened.gate,
        clock=clock,
        ids=ids,
        keep=lambda receipt: stores.receipts.put(receipt.id, receipt.stored()),
        meter=opened.meter,
        tables=opened.followed,
        embeds=opened.embeddings.names,
        adapters=adapters,
    )
    watch = Watch(opened.engines, opened.gate, limits, clock, opened.meter.executors)
    desk = ConfigDesk(opened.tables, stores.replicas, clock=clock, ids=ids)
    face = Face(cast, authority, stores.receipts, stores.responses, opened.embeddings, watch, desk)
    public = PublicFace(
        face,
        stores.keys,
        opened.forwarding,
        grpc,
        pepper=pepper,
        metrics_page=opened.page,
        observe=lambda ended: opened.meter.rpc(
            ended.method.rpartition("/")[2], ended.code, ended.seconds
        ),
        tells_request_id=tells_request_id,
    )
    return Wired(face, public, watch, desk, adapters)
