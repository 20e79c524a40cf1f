"""Who may call a service of the inside: holders of the internal token, for themselves or for the principal that they signed.

    x-consilium-token: <internal token>             required
    x-consilium-principal: <signed principal>       absent = the cluster itself asks

The same over gRPC (`InnerAuth` is what GrpcServer asks) and HTTP (kernel/inner_http.py asks it). Knows the two keys. Does not know API keys, which only the gateway reads, or scopes of methods,
which the gateway checks before it forwards.
"""

from __future__ import annotations

from collections.abc import Mapping

from consilium.kernel.clock import Clock, SystemClock
from consilium.kernel.principals import (
    CLUSTER,
    PRINCIPAL_KEY,
    TOKEN_KEY,
    Principal,
    check_token,
    verified,
)


class InnerAuth:
    """Believes whoever holds the token.

    token  the internal token of this cluster
    clock  its time is compared with the age of a principal
    """

    def __init__(self, token: str, clock: Clock | None = None) -> None:
        self._token = token
        self._clock = clock or SystemClock()

    def principal(self, metadata: Mapping[str, str]) -> Principal:
        """Return who asks, from metadata or headers with names in lower case.

        Raises ConsiliumError(unauthenticated): no token, a wrong one, a principal that was forged, is too old, or is none.
        """
        check_token(metadata.get(TOKEN_KEY), self._token)
        signed = metadata.get(PRINCIPAL_KEY)
        return CLUSTER if signed is None else verified(signed, self._token, self._clock.now())

    async def __call__(self, metadata: Mapping[str, str], method: str) -> Principal:  # noqa: ARG002  GrpcServer names the method
        """Return who asks, as GrpcServer wants it."""
        return self.principal(metadata)
