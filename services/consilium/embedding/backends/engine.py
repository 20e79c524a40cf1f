"""Vectors from an executor of ours that serves an embedding model.

Knows the engine room's client. Does not know vLLM.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Protocol

from consilium.embedding import answer
from consilium.embedding.backends.openai import same_width
from consilium.embedding.batches import in_batches
from consilium.embedding.ports import Fingerprint, Kind, Vectors
from consilium.engine.client import Call, ExecutorInfo, Turn
from consilium.kernel import trace_context


class Opens(Protocol):
    """What is needed of `EngineClient`."""

    async def open(self, executor: str, call: Call) -> Turn:
        """Send a call and return when the answer has begun."""

    def info(self, executor: str) -> ExecutorInfo:
        """Say what is known of one executor."""


class EngineEmbedder:
    """One executor as an embedder."""

    def __init__(
        self,
        client: Opens,
        executor: str,
        model: str,
        *,
        batch: int = 32,
        timeout_s: float = 60,
        max_tokens: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
    ) -> None:
        self._client = client
        self._executor = executor
        self._model = model
        self._batch = batch
        self._timeout_s = timeout_s
        self._max_tokens = max_tokens
        self._prefixes: dict[Kind, str] = {"query": query_prefix, "passage": passage_prefix}
        self._dimensions: int | None = None

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made; the revision is that of the executor's files."""
        info = self._client.info(self._executor)
        prefixes = self._prefixes
        return Fingerprint(
            self._model,
            info.revision,
            self._dimensions,
            "engine",
            prefixes["query"],
            prefixes["passage"],
            self._max_tokens or info.context,
        )

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Raises ConsiliumError as the port says."""
        prefixed = [self._prefixes[kind] + text for text in texts]
        found = await in_batches(prefixed, self._batch, self._call)
        self._dimensions = same_width(self._dimensions, found, f"executor/{self._executor}")
        return found

    async def aclose(self) -> None:
        """Do nothing: the client belongs to who made it."""

    async def _call(self, texts: Sequence[str]) -> Vectors:
        name = f"executor/{self._executor}"
        body: dict[str, object] = {
            "model": self._client.info(self._executor).model,
            "input": list(texts),
            "encoding_format": "float",
        }
        call = Call(
            f"embd-{uuid.uuid4().hex}",
            "embeddings",
            body,
            deadline=time.time() + self._timeout_s,
            trace=trace_context.headers(),
        )
        async with await self._client.open(self._executor, call) as turn:
            raw = b"".join([chunk async for chunk in turn])
        if turn.head.status != 200:
            raise answer.refusal(turn.head.status, raw, name, turn.head.retry_after)
        return answer.parse(raw, texts, name)
