"""Calls to our gRPC services: a deadline on each, who asks, retries of what may be repeated while a service is away, and errors as ConsiliumError.

    from outside   Channel(address, name="gateway", key="csl_...")
    inside         Channel(address, name="jobs", token=internal_token(folder))

Inside, a call carries the token, and the principal of the call that is being served, so that the next service knows for whom it works. Clients (client.py of each
room) stand on this and hide protobuf. Knows deadlines, metadata and statuses. Does not know services.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final, TypeVar

import grpc

from consilium.kernel import calls, logs, trace_context
from consilium.kernel.clock import Clock, SystemClock
from consilium.kernel.closing import Closing
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.idempotent import method_config, methods
from consilium.kernel.principals import CLUSTER, PRINCIPAL_KEY, TOKEN_KEY, Principal, sign

Request = TypeVar("Request")

KNOWN: Final = methods()
"""What may be repeated of our own services."""

MARGIN_S: Final = 0.05
"""Taken off the rest of our own caller's deadline, so that we can still tell them."""


class Channel(Closing):
    """A channel to one target.

    target      host:port, or dns:///name:port for all addresses of a headless Service
    key         API key, sent as a bearer
    token       internal token; each call then also says for whom it is
    timeout_s   deadline of a call that names none
    idempotent  methods that are tried up to three times while the service is away; every other one is called once
    """

    def __init__(
        self,
        target: str,
        *,
        name: str,
        key: str | None = None,
        token: str | None = None,
        timeout_s: float = 30.0,
        max_message_bytes: int = 64 * 1024 * 1024,
        idempotent: Iterable[str] = KNOWN,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._key = key
        self._token = token
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._channel = grpc.aio.insecure_channel(
            target, options=_options(max_message_bytes, idempotent)
        )

    @property
    def raw(self) -> Any:
        """The grpc.aio channel, for making stubs."""
        return self._channel

    async def ask(
        self,
        method: Any,
        request: Request,
        *,
        timeout_s: float | None = None,
        principal: Principal | None = None,
    ) -> Any:
        """Call a method of a stub that answers once. Raises ConsiliumError.

        principal  for whom, on a channel with a token; None = for whom the call that is being served is, and outside of one, for the cluster itself
        """
        metadata = self._metadata(principal)
        try:
            return await method(request, timeout=self._rest(timeout_s), metadata=metadata)
        except grpc.aio.AioRpcError as err:
            raise self._told(err) from None

    async def listen(
        self,
        method: Any,
        request: Request,
        *,
        timeout_s: float | None = None,
        principal: Principal | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Call a method of a stub that streams, and yield its messages. Closing the generator cancels the call. Raises ConsiliumError.

        principal  as for `ask`
        """
        metadata = self._metadata(principal)
        call = method(request, timeout=self._rest(timeout_s), metadata=metadata)
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

    def _metadata(self, principal: Principal | None) -> tuple[tuple[str, str], ...]:
        pairs = []
        if self._key is not None:
            pairs.append((calls.AUTHORIZATION_KEY, f"Bearer {self._key}"))
        if self._token is not None:
            pairs.append((TOKEN_KEY, self._token))
            for_whom = principal or _served()
            if for_whom != CLUSTER:
                signed = sign(for_whom, self._token, self._clock.now())
                pairs.append((PRINCIPAL_KEY, signed))
        if found := logs.request_id():
            pairs.append((calls.REQUEST_ID_KEY, found))
        pairs += trace_context.headers().items()
        return tuple(pairs)

    def _told(self, err: grpc.aio.AioRpcError) -> ConsiliumError:
        metadata: Iterable[tuple[str, str | bytes]] = err.trailing_metadata() or ()
        return calls.from_status(err.code(), err.details() or "", metadata, name=self._name)


def _served() -> Principal:
    """Return for whom this task works. Raises LookupError in a call whose principal nobody has set: to ask for the cluster itself there would widen its rights."""
    call = calls.serving()
    if call is None:
        return CLUSTER
    if isinstance(call.principal, Principal):
        return call.principal
    msg = f"say for whom {call.method} asks: its call has no principal"
    raise LookupError(msg)


def _options(max_message_bytes: int, idempotent: Iterable[str]) -> list[tuple[str, Any]]:
    service_config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": method_config(idempotent),
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
    }
    return [
        ("grpc.service_config", json.dumps(service_config)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # While this lasts, calls fail at once though the service is back.
        ("grpc.max_reconnect_backoff_ms", 1_000),
    ]
