"""What both faces of the gateway stand on, HTTP and gRPC: who plays turns, who lets callers in, where answers are kept.

Knows ports and the sentences that both faces say alike. Does not know HTTP or gRPC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

from consilium.engine.ports import Json
from consilium.gateway import conversation, turn
from consilium.gateway.authority import Admitted, Authority
from consilium.gateway.executor_states import Watch
from consilium.gateway.stores import ReceiptStore, ResponseStore
from consilium.kernel.errors import ConsiliumError

LONGEST_ID: Final = 64
"""Characters of an id that are looked at: receipts, responses, requests."""
EMBEDDINGS: Final = "embeddings"


class Embedder(Protocol):
    """Answers /v1/embeddings with the model of that name."""

    model: str

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object. Raises ConsiliumError."""


@dataclass(frozen=True, slots=True)
class Face:
    """The parts that answer."""

    cast: turn.Cast
    authority: Authority
    receipts: ReceiptStore
    responses: ResponseStore
    embeddings: Embedder
    watch: Watch

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object. It counts as work in progress, so that a drain waits for it. Raises ConsiliumError."""
        try:
            with self.cast.gate.beside(EMBEDDINGS):
                self.cast.meter.inflight(EMBEDDINGS)
                return await self.embeddings.create(body)
        finally:
            self.cast.meter.inflight(EMBEDDINGS)

    async def receipt(self, name: str, admitted: Admitted) -> Json:
        """Return a receipt that the caller may read. Raises ConsiliumError(receipt_unknown)."""
        found = await self.receipts.get(name[:LONGEST_ID])
        if found is None or not admitted.may_read(str(found.get("key_id", ""))):
            raise ConsiliumError("receipt_unknown", name=name[:LONGEST_ID], kept=self._kept())
        return found

    async def response(self, name: str, admitted: Admitted) -> conversation.Stored:
        """Return a stored response that the caller may read. Raises ConsiliumError(response_unknown)."""
        raw = await self.responses.get(name[:LONGEST_ID])
        stored = conversation.of(raw) if raw is not None else None
        if stored is None or not admitted.may_read(stored.owner):
            raise ConsiliumError("response_unknown", name=name[:LONGEST_ID], kept=self._kept())
        return stored

    def _kept(self) -> str:
        """Return how long answers are kept, for a sentence."""
        seconds = self.cast.limits.receipt_ttl_s
        return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min"
