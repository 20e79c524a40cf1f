"""The rooms that the gateway hands calls on to, and as whom: the internal token and the caller's principal, signed.

Knows rooms, addresses and principals. Does not know gRPC or HTTP, nor what a call says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import PRINCIPAL_KEY, TOKEN_KEY, Principal, sign
from consilium.kernel.rooms import Room

INNER: Final = frozenset({TOKEN_KEY, PRINCIPAL_KEY, "authorization", "cookie"})
"""Names of metadata and headers that no caller's value is handed on of: what opens a door is ours to say."""

RETRY_S: Final = 1.0

_log = logs.get("gateway")


@dataclass(frozen=True, slots=True)
class Reached:
    """A room, and where it is: `grpc` host:port, `http` http://host:port; empty = nowhere."""

    room: Room
    grpc: str = ""
    http: str = ""

    def down(self, detail: str) -> ConsiliumError:
        """Return the error of a room that does not answer."""
        return ConsiliumError(
            "upstream_down", detail, name=f"The service {self.room.name}", retry_after_s=RETRY_S
        )


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Every room that has something public, and what the gateway shows them.

    refusing  names of the rooms that last refused what the gateway shows them
    """

    rooms: tuple[Reached, ...]
    token: str
    clock: Clock
    refusing: set[str] = field(default_factory=set)

    def identity(self, principal: Principal) -> Mapping[str, str]:
        """Return the headers or metadata that tell a room who asks."""
        return {
            TOKEN_KEY: self.token,
            PRINCIPAL_KEY: sign(principal, self.token, self.clock.now()),
        }

    def refused(self, reached: Reached, said: str) -> ConsiliumError:
        """Return the error for a room that refuses our token or principal: the caller's key was good, so it is no 401 of theirs.

        It is logged as an error once, until the room lets us in again.
        """
        name = reached.room.name
        if name not in self.refusing:
            self.refusing.add(name)
            _log.error("room_refuses_us", room=name, said=said)
        return reached.down(f"it refuses the gateway's token or principal: {said}")

    def let_in(self, reached: Reached) -> None:
        """Note that a room took what we show it."""
        self.refusing.discard(reached.room.name)
