"""Calls from inside the cluster on the gateway's public port: rooms that show the internal token instead of a key.

    TurnService               the token, and nobody without it
    GenerationService/Embed   a key or the token
    everything else           a key

A token that is wrong is refused everywhere; a principal without a token says nothing. A call that shows nothing is refused before its message is read; the
key itself is judged by the servicers, which know the scope, and here only where the message is late. Knows the two ways in. Does not know what is asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from consilium.gateway.authority import Authority
from consilium.kernel.calls import AUTHORIZATION_KEY
from consilium.kernel.clock import Clock
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.principals import TOKEN_KEY, Principal, check_token

TURNS: str = "/consilium.v1.TurnService/"
"""Beginning of the methods that need the token."""


class InnerCallers:
    """Finds out who asks from inside. It is the gateway's authenticator."""

    def __init__(self, token: str, authority: Authority, clock: Clock) -> None:
        self._token, self._authority = token, authority
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
        self._authority.check_spelling(metadata.get(AUTHORIZATION_KEY))
        return None

    async def vouch(self, metadata: Mapping[str, str]) -> None:
        """Find out whether a caller whose message is late has a good key. Raises ConsiliumError(unauthenticated, upstream_down)."""
        if not self.is_inner(metadata):
            await self._authority.vouch(metadata.get(AUTHORIZATION_KEY))
