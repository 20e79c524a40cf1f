"""Which gRPC methods may be called again after a failure without harm. Every other method is called once.

A channel retries these while a service is away, and nothing else: a job that is submitted twice is worked on twice. Knows names of methods.
Does not know channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from consilium.kernel.rooms import ROOMS, Room

OURS: Final = frozenset(
    {
        "/consilium.v1.GenerationService/ListModels",
        "/consilium.v1.GenerationService/CountTokens",
        "/consilium.v1.GenerationService/Embed",
        "/consilium.v1.GenerationService/GetReceipt",
        "/consilium.v1.TableService/WatchTable",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }
)
"""Methods of no room in particular. Generate is not among them: a turn costs tokens, and is counted, each time."""

RETRY: Final = {
    "maxAttempts": 3,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
"""gRPC itself does not retry once a first message has come."""


def methods(rooms: Iterable[Room] = ROOMS) -> frozenset[str]:
    """Return the methods that may be repeated: ours, and those that these rooms name."""
    return OURS.union(*(room.idempotent for room in rooms))


def method_config(repeatable: Iterable[str]) -> list[dict[str, Any]]:
    """Return the `methodConfig` of a gRPC service config that retries these methods and no others."""
    names = []
    for full in sorted(repeatable):
        service, _, method = full.removeprefix("/").partition("/")
        names.append({"service": service, "method": method})
    return [{"name": names, "retryPolicy": RETRY}] if names else []
