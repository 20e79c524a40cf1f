"""The gateway's two servers over one face: which routes and services callers meet, those of rooms included.

Puts together what other files make. Knows no rules, and not where configuration or stores come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from consilium.gateway import grpc_turns, servicer
from consilium.gateway.face import Face
from consilium.gateway.forwarding import Forwarding
from consilium.gateway.grpc_forward import GrpcForward
from consilium.gateway.grpc_inner import InnerCallers
from consilium.gateway.http_keys import HttpKeys
from consilium.gateway.http_metrics import HttpMetrics
from consilium.gateway.http_proxy import HttpProxy
from consilium.gateway.key_requests import scopes_of
from consilium.gateway.routes import HttpFace
from consilium.gateway.stores import KeyStore
from consilium.kernel.grpc_server import Ended, GrpcServer, Settings


class PublicFace:
    """HTTP and gRPC for callers. `http` is an ASGI application; `grpc` is started and stopped by whoever opens this."""

    def __init__(
        self,
        face: Face,
        keys: KeyStore,
        forwarding: Forwarding,
        settings: Settings,
        *,
        pepper: bytes,
        metrics_page: str = "",
        observe: Callable[[Ended], None] = lambda _ended: None,
        tells_request_id: bool = True,
    ) -> None:
        """Take the wiring.

        keys              where /v1/keys keeps them
        pepper            of the key hashes
        metrics_page      address of the page that /v1/metrics tells, as for HttpMetrics
        settings          of the gRPC server
        observe           is told of each gRPC call that has ended
        tells_request_id  as for HttpFace

        Raises ConsiliumError(config_invalid) if a room's row names a path that is taken, or a method that its proto does not have.
        """
        cast, limits = face.cast, face.cast.limits
        scopes = scopes_of(reached.room for reached in forwarding.rooms)
        own_keys = HttpKeys(keys, pepper=pepper, scopes=scopes, clock=cast.clock)
        self._metrics = HttpMetrics(metrics_page, cast.clock)
        self._proxy = HttpProxy(forwarding, answer_s=limits.request_timeout_s)
        self._forward = GrpcForward(forwarding, face.authority)
        self.http = HttpFace(
            face,
            more=[*own_keys.routes(), *self._metrics.routes(), *self._proxy.routes()],
            tells_request_id=tells_request_id,
        )
        inner = InnerCallers(forwarding.token, face.authority, cast.clock)
        self.grpc = GrpcServer(
            replace(
                settings,
                public=True,
                max_message_bytes=limits.max_body_bytes,
                message_s=limits.grpc_message_s,
                unread_s=limits.unread_s,
            ),
            [servicer.service(face), grpc_turns.service(face), *self._forward.services],
            authenticate=inner,
            is_inner=inner.is_inner,
            vouch=inner.vouch,
            ids=cast.ids,
            observe=observe,
        )

    async def watch_rooms(self) -> None:
        """Keep gRPC health right as rooms come and go, until cancelled."""
        await self._forward.watch(self.grpc)

    async def aclose(self) -> None:
        """Close the connections to rooms."""
        await asyncio.gather(self._forward.aclose(), self._proxy.aclose(), self._metrics.aclose())
