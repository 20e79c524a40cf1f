"""The tables that rooms stream to this gateway: which there are, and one follower for each.

What must be known for every turn is held here, so that a decision costs no call; a room that is down leaves its last table. Knows rooms and addresses. Does not
know what the rows mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from consilium.kernel.clock import Clock
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.idempotent import methods
from consilium.kernel.rooms import Room
from consilium.kernel.service_config import Address
from consilium.kernel.table_client import TableFollower


def followers(
    rooms: Iterable[Room], services: Mapping[str, Address], token: str, clock: Clock
) -> dict[str, TableFollower]:
    """Return a follower for each table of each room that has an address, by the table's name. Nothing is asked before they run."""
    found = {}
    for room in rooms:
        if not _is_there(room, services):
            continue
        for table in room.tables:
            opened = partial(_opened, room, services, token, clock)
            found[table] = TableFollower(opened, table, clock=clock)
    return found


def channel(
    room: Room, services: Mapping[str, Address], token: str, clock: Clock
) -> Channel | None:
    """Return a channel to a room, or None where it has no address."""
    return _opened(room, services, token, clock) if _is_there(room, services) else None


def _is_there(room: Room, services: Mapping[str, Address]) -> bool:
    address = services.get(room.name)
    return address is not None and bool(address.grpc)


def _opened(room: Room, services: Mapping[str, Address], token: str, clock: Clock) -> Channel:
    return Channel(
        services[room.name].grpc,
        name=room.name,
        token=token,
        idempotent=methods((room,)),
        clock=clock,
    )
