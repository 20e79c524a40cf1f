"""Vectors from any server with an OpenAI embeddings interface.

Knows HTTP. Does not know where the key comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from consilium.embedding import answer
from consilium.embedding.batches import in_batches
from consilium.embedding.ports import Fingerprint, Kind, Vectors
from consilium.kernel import trace_context
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.openai_errors import seconds


class OpenAI:
    """One model behind one URL."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str | None = None,
        batch: int = 32,
        timeout_s: float = 60,
        max_tokens: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
    ) -> None:
        self._model = model
        self._name = f"the embedding endpoint {httpx.URL(url).host}"
        self._batch = batch
        self._max_tokens = max_tokens
        self._prefixes: dict[Kind, str] = {"query": query_prefix, "passage": passage_prefix}
        self._dimensions: int | None = None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/", headers=headers, timeout=timeout_s
        )

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made; the revision of a foreign server's model is not known."""
        prefixes = self._prefixes
        return Fingerprint(
            self._model,
            "remote",
            self._dimensions,
            "remote",
            prefixes["query"],
            prefixes["passage"],
            max_tokens=self._max_tokens,
        )

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. Raises ConsiliumError as the port says."""
        prefixed = [self._prefixes[kind] + text for text in texts]
        found = await in_batches(prefixed, self._batch, self._call)
        self._dimensions = same_width(self._dimensions, found, self._name)
        return found

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, texts: Sequence[str]) -> Vectors:
        try:
            reply = await self._http.post(
                "embeddings",
                json={"model": self._model, "input": list(texts), "encoding_format": "float"},
                headers=trace_context.headers(),
            )
        except httpx.HTTPError as cause:
            raise ConsiliumError(
                "upstream_down",
                f"{type(cause).__name__}: {cause}",
                name=self._name,
                retry_after_s=1.0,
            ) from cause
        if reply.status_code != httpx.codes.OK:
            raise answer.refusal(
                reply.status_code,
                reply.content,
                self._name,
                seconds(reply.headers.get("retry-after")),
            )
        return answer.parse(reply.content, texts, self._name)


def same_width(known: int | None, found: Vectors, name: str) -> int:
    """Return the width of the vectors. Raises ConsiliumError(conflict) if it was another one before: the model behind the name has been changed."""
    width = int(found.values.shape[1])
    if known is not None and known != width:
        raise ConsiliumError(
            "conflict",
            reason=f"{name} gave vectors of {known} numbers before and of {width} now; its model has changed, restart the gateway",
        )
    return width
