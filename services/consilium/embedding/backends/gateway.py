"""Vectors from the cluster's own gateway, for the other rooms: a model is loaded in one place, not in each of them.

Knows the gateway's client, as far as it is declared in ports.py. Does not know channels or which model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from consilium.embedding.batches import in_batches
from consilium.embedding.ports import Array, Embedded, Fingerprint, Gateway, Kind, Vectors
from consilium.embedding.vectors import divided
from consilium.kernel.errors import ConsiliumError

TEXTS: Final = 32
"""In one call: some seconds of one core at worst, so that no call nears its deadline."""


class GatewayEmbedder:
    """The gateway as an embedder. The fingerprint of its first answer binds all later ones."""

    def __init__(self, gateway: Gateway, *, timeout_s: float = 60) -> None:
        self._gateway = gateway
        self._timeout_s = timeout_s
        self._fingerprint = Fingerprint("cluster", "", None, "")

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made: the gateway's own key, once it has answered."""
        return self._fingerprint

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Raises ConsiliumError as the port says, and conflict if the gateway embeds otherwise than before."""
        return await in_batches(texts, TEXTS, lambda part: self._call(part, kind))

    async def aclose(self) -> None:
        """Do nothing: the client belongs to who made it."""

    async def _call(self, texts: Sequence[str], kind: Kind) -> Vectors:
        found = await self._gateway.vectors(texts, kind=kind, timeout_s=self._timeout_s)
        self._check(found, len(texts))
        values: Array = np.frombuffer(b"".join(found.rows), dtype="<f4").reshape(len(texts), -1)
        return Vectors(values, divided(found.tokens, [len(text.encode()) for text in texts]))

    def _check(self, found: Embedded, wanted: int) -> None:
        """Remember the first answer's fingerprint, and refuse another one or an answer that is not whole."""
        told, _, width = found.fingerprint.rpartition("-")
        if (
            not told
            or not width.isdigit()
            or len(found.rows) != wanted
            or any(len(row) != 4 * int(width) for row in found.rows)
        ):
            detail = (
                f"{len(found.rows)} vectors for {wanted} texts, fingerprint {found.fingerprint!r}"
            )
            raise ConsiliumError("upstream_down", detail, name="The gateway", retry_after_s=1.0)
        known = self._fingerprint
        if known.told and known.key() != found.fingerprint:
            raise ConsiliumError(
                "conflict",
                reason=f"the cluster embeds otherwise than before ({found.fingerprint}, and it was {known.key()}); vectors of the two cannot be compared. "
                "Restart this service, and build again what was built with the former",
            )
        self._fingerprint = Fingerprint(found.model, "", int(width), "", told=told)
