"""Calls from inside the cluster on the gateway's public port: rooms that show the internal token instead of a key.

    TurnService               the token, and nobody without it
    GenerationService/Embed   a key or the token
    everything else           a key

A token that is wrong is refused everywhere; a principal without a token says nothing. Knows the two ways in. Does not know what is asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from consilium.kernel.clock import Clock
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.principals import TOKEN_KEY, Principal, check_token

TURNS: str = "/consilium.v1.TurnService/"
"""Beginning of the methods that need the token."""


class InnerCallers:
    """Finds out who asks from inside. It is the gateway's authenticator: keys are judged by the servicers, which know the scope."""

    def __init__(self, token: str, clock: Clock) -> None:
        self._token = token
        self._auth = InnerAuth(token, clock)

    def is_inner(self, metadata: Mapping[str, str]) -> bool:
        """Say whether a call shows the token of this cluster."""
        given = metadata.get(TOKEN_KEY)
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())

    async def __call__(self, metadata: Mapping[str, str], method: str) -> Principal | None:
        """Return who asks from inside, or None for a caller who shows no token. Raises ConsiliumError(unauthenticated)."""
        if TOKEN_KEY in metadata:
            return self._auth.principal(metadata)
        if method.startswith(TURNS):
            check_token(None, self._token)
        return None
