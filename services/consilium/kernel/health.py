"""grpc.health.v1: Check and Watch, per service and for the whole server ("").

Knows which services serve. Does not know why not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVICE: Final = "grpc.health.v1.Health"

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """States of services. Nothing serves until it is said to."""

    def __init__(self, services: Iterable[str]) -> None:
        self._serving = dict.fromkeys(("", SERVICE, *services), False)
        self._closing = False
        self._changed = asyncio.Event()

    def set_serving(self, *, serving: bool, service: str | None = None) -> None:
        """Say whether one service serves, or all of them. After `close` nothing serves any more."""
        for name in [service] if service is not None else list(self._serving):
            self._serving[name] = serving and not self._closing
        self._wake()

    def is_serving(self, service: str = "") -> bool:
        """Return whether a service serves."""
        return self._serving.get(service, False)

    def close(self) -> None:
        """Say NOT_SERVING for everything, tell it to every watcher, and end their streams: they would hold up the drain."""
        self._closing = True
        self.set_serving(serving=False)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  the name in the proto
        """Answer once; NOT_FOUND for an unknown service."""
        if request.service not in self._serving:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}"
            )
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802  the name in the proto
        """Answer now and at each change, until the server ends."""
        told = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                yield health_pb2.HealthCheckResponse(status=status)
                told = status
            elif self._closing:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._serving:
            return int(_UNKNOWN)
        return int(_SERVING if self._serving[service] else _NOT_SERVING)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
