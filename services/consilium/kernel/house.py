"""What the house gives to a room while it runs: time, ids, metrics, the token, and channels to the other services.

Knows addresses and the folder beside the configuration. Does not know what the room does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from consilium.kernel.clock import Clock, Ids, SystemClock, UlidIds
from consilium.kernel.ending_files import DRAINING
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.idempotent import methods
from consilium.kernel.metrics import Metrics
from consilium.kernel.rooms import Room
from consilium.kernel.service_config import Address

_LOOK_S: Final = 0.2


@dataclass(slots=True)
class House:
    """The house as one room sees it.

    name      of the room
    folder    where a room keeps what is its, and finds the secrets of the cluster: on one machine the state folder
    token     the internal token
    services  addresses of the cluster's services
    rooms     all rooms, for what of them may be repeated
    draining  set as soon as the cluster, or this process, is being stopped: take no new work from then on
    config    the file that it was started with, for rooms that follow it
    """

    name: str
    folder: Path
    token: str
    services: Mapping[str, Address] = field(default_factory=dict)
    rooms: tuple[Room, ...] = ()
    clock: Clock = field(default_factory=SystemClock)
    ids: Ids = field(default_factory=UlidIds)
    metrics: Metrics = field(default_factory=Metrics)
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    config: Path = Path()
    _channels: list[Channel] = field(default_factory=list)

    def channel(self, name: str, *, timeout_s: float = 30.0) -> Channel:
        """Return a channel to another service, with token and principal on each call. It is closed with the house, or before by whoever wants to.

        Raises ConsiliumError(config_invalid) if the configuration does not say where the service is.
        """
        address = self.services.get(name)
        if address is None or not address.grpc:
            raise ConsiliumError(
                "config_invalid",
                key=f"services.{name}.grpc",
                reason=f"{self.name} asks {name}, and nothing says where it listens",
            )
        channel = Channel(
            address.grpc,
            name=name,
            token=self.token,
            timeout_s=timeout_s,
            idempotent=methods(self.rooms),
            clock=self.clock,
        )
        self._channels.append(channel)
        return channel

    async def watch_draining(self) -> None:
        """Set `draining` once the file is there. A signal comes later: first the gateway lets its callers finish, and meanwhile nothing new is begun."""
        file = self.folder / DRAINING
        while not file.exists():
            await self.clock.sleep(_LOOK_S)
        self.draining.set()

    async def aclose(self) -> None:
        """Close the channels."""
        while self._channels:
            await self._channels.pop().aclose()
