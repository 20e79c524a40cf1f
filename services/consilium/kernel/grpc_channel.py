"""Calls to our gRPC services: a deadline on each, retries while a service is away, and errors as ConsiliumError.

Clients (client.py of each room) stand on this and hide protobuf. Knows deadlines and statuses. Does not know services.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc

from consilium.kernel import calls, logs
from consilium.kernel.errors import ConsiliumError

Request = TypeVar("Request")

MARGIN_S: Final = 0.05
"""Taken off the rest of our own caller's deadline, so that we can still tell them."""

SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
"""gRPC does not retry once a first message has come, so no generation is begun twice under a reader's eyes."""


class Channel:
    """A channel to one target.

    target     host:port, or dns:///name:port for all addresses of a headless Service
    key        API key or internal token, sent as a bearer
    timeout_s  deadline of a call that names none
    """

    def __init__(
        self,
        target: str,
        *,
        name: str,
        key: str | None = None,
        timeout_s: float = 30.0,
        max_message_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self._name = name
        self._key = key
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(target, options=_options(max_message_bytes))

    @property
    def raw(self) -> Any:
        """The grpc.aio channel, for making stubs."""
        return self._channel

    async def ask(self, method: Any, request: Request, *, timeout_s: float | None = None) -> Any:
        """Call a method of a stub that answers once. Raises ConsiliumError."""
        try:
            return await method(request, timeout=self._rest(timeout_s), metadata=self._metadata())
        except grpc.aio.AioRpcError as err:
            raise self._told(err) from None

    async def listen(
        self, method: Any, request: Request, *, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Call a method of a stub that streams, and yield its messages. Closing the generator cancels the call. Raises ConsiliumError."""
        call = method(request, timeout=self._rest(timeout_s), metadata=self._metadata())
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as err:
            raise self._told(err) from None
        finally:
            call.cancel()

    async def aclose(self) -> None:
        """Close the connection and cancel its calls."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _rest(self, timeout_s: float | None) -> float:
        """Return the seconds for a call: what was asked, but no longer than our own caller waits."""
        wanted = timeout_s if timeout_s is not None else self._timeout_s
        deadline = calls.current_deadline()
        rest = wanted if deadline is None else min(wanted, deadline - time.time() - MARGIN_S)
        if rest <= 0:
            raise ConsiliumError(
                "deadline", f"nothing left for {self._name}", name=self._name, seconds=0
            )
        return rest

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        pairs = []
        if self._key is not None:
            pairs.append((calls.AUTHORIZATION_KEY, f"Bearer {self._key}"))
        if found := logs.request_id():
            pairs.append((calls.REQUEST_ID_KEY, found))
        return tuple(pairs)

    def _told(self, err: grpc.aio.AioRpcError) -> ConsiliumError:
        metadata: Iterable[tuple[str, str | bytes]] = err.trailing_metadata() or ()
        return calls.from_status(err.code(), err.details() or "", metadata, name=self._name)


def _options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
