"""How a request is let in, whichever face it came to: key, scope, quota, and the one reservation that is settled once.

Knows keys and bodies. Does not know HTTP, gRPC or how a turn is played.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from consilium.embedding.client import Kind, Vectors
from consilium.engine.ports import Json, Lane, Route
from consilium.gateway import conversation, model_list, models
from consilium.gateway.authority import Admitted, Authority
from consilium.gateway.cast import Ask, Cast
from consilium.gateway.config_desk import ConfigDesk
from consilium.gateway.estimate import bound_tokens
from consilium.gateway.executor_states import Watch
from consilium.gateway.reservation import Reservation
from consilium.gateway.stores import ReceiptStore, ResponseStore
from consilium.kernel import trace_context
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import GENERATE

LONGEST_ID: Final = 64
"""Characters of an id that are looked at: receipts, responses, requests."""
EMBEDDINGS: Final = "embeddings"


class Embedder(Protocol):
    """Answers /v1/embeddings with the model of these names, the true one first."""

    model: str
    names: tuple[str, ...]

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object. Raises ConsiliumError."""

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Raises ConsiliumError."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request that was let in.

    admitted  who asks, and what the quota says
    held      what was taken from the quota
    size      bytes of the body
    took_s    seconds that it took to let it in
    """

    admitted: Admitted
    held: Reservation
    size: int = 0
    took_s: float = 0.0

    def ask(
        self,
        route: Route,
        body: Json,
        *,
        deadline: float | None = None,
        lane: Lane = "interactive",
        conversation: str = "",
        answer_id: str = "",
    ) -> Ask:
        """Return the request as a turn takes it. From then on the turn settles what is held."""
        return Ask(
            route,
            body,
            self.size,
            self.admitted.key_id,
            self.held,
            deadline,
            self.admitted.notes,
            self.admitted.principal.tenant,
            lane,
            conversation,
            answer_id,
            self.admitted.principal.name,
            self.took_s,
            trace_context.headers(),
        )


@dataclass(frozen=True, slots=True)
class Face:
    """What both faces stand on."""

    cast: Cast
    authority: Authority
    receipts: ReceiptStore
    responses: ResponseStore
    embeddings: Embedder
    watch: Watch
    config: ConfigDesk

    async def enter(
        self,
        authorization: str | None,
        body: Mapping[str, object],
        size: int,
        *,
        scope: str = GENERATE,
        free: bool = False,
    ) -> Entry:
        """Let a request in: key, scope, quota.

        size  bytes of the body
        free  take no tokens from the quota, as for counting

        Raises ConsiliumError as `Authority.authenticate` does.
        """
        tokens = 0 if free else self.bound(body, size)
        clock = self.cast.clock
        began = clock.monotonic()
        admitted = await self.authority.authenticate(authorization, tokens, scope)
        held = Reservation(admitted.key_id, admitted.reserved, self.authority.settle)
        return Entry(admitted, held, size, clock.monotonic() - began)

    def models(self, created: int = 0) -> list[model_list.Row]:
        """Return every name that can stand in `model`, as GET /v1/models shows it. `created` is Unix seconds."""
        cast = self.cast
        roles = {name: frame.executor for name, frame in cast.frames.items()}
        adapters = {
            row.name: row.domain for row in cast.adapters.known.rows.values() if row.current
        }
        return model_list.listing(
            roles, cast.engine.executors(), created, cast.embeds, adapters=adapters
        )

    def bound(self, body: Mapping[str, object], size: int) -> int:
        """Return the tokens to reserve for a request of so many bytes."""
        model, wish = body.get("model"), body.get("consilium")
        named = wish.get("role") if isinstance(wish, Mapping) else None
        role = named or (model.removeprefix("role/") if isinstance(model, str) else "")
        frame = self.cast.frames.get(role) if isinstance(role, str) else None
        return bound_tokens(body, size, frame.text if frame is not None else "")

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return an OpenAI embeddings object; meanwhile it counts as in work, so that who drains waits for it. Raises ConsiliumError."""
        self._refuse_what_answers(body.get("model"))
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

    def _refuse_what_answers(self, model: object) -> None:
        """Raise ConsiliumError(invalid_request) if a request for vectors names a model that answers turns."""
        names = self.cast.embeds
        if not isinstance(model, str) or model in (models.AUTO, *names):
            return
        served = {info.name: info.model for info in self.cast.engine.executors()}
        if model in models.known_names(self.cast.frames, served):
            raise models.answers(model, names)

    def _kept(self) -> str:
        """Return how long answers are kept, for a sentence."""
        seconds = self.cast.limits.receipt_ttl_s
        return f"{seconds // 3600} h" if seconds >= 3600 else f"{seconds // 60} min"
