"""/v1/embeddings in this process: an OpenAI request goes in, an OpenAI answer comes out.

Knows the interface's rules. Does not know HTTP, keys, quotas, or which backend answers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final, TypeAlias

import numpy as np

from consilium.embedding.ports import Array, Embedder, Fingerprint, Kind, Vectors
from consilium.embedding.vectors import shortened
from consilium.kernel.errors import ConsiliumError

Json: TypeAlias = dict[str, object]

MOST_TEXTS: Final = 2048  # OpenAI's own limit
MOST_AT_ONCE: Final = 64
"""Requests in work; texts and tokens of those that wait are in memory."""
ALIASES: Final = ("auto", "embedding")
_KINDS: Final[dict[object, Kind]] = {
    None: "passage",
    "passage": "passage",
    "document": "passage",
    "query": "query",
}


class Embeddings:
    """The embeddings endpoint, for the gateway and for the rooms that need vectors."""

    def __init__(self, embedder: Embedder, *, model: str, dimensions: int | None = None) -> None:
        self._embedder = embedder
        self._dimensions = dimensions
        self._running = 0
        self.model = model

    def fingerprint(self, dimensions: int | None = None) -> Fingerprint:
        """Say by what the vectors are made that `embed` gives for these dimensions. A remote model's length is not known before its first answer."""
        return self._embedder.fingerprint().cut_to(dimensions or self._dimensions)

    async def settled_fingerprint(self, dimensions: int | None = None) -> Fingerprint:
        """Return the fingerprint with the length that it has for certain; a remote model is asked for one vector if need be. Raises ConsiliumError."""
        if self._embedder.fingerprint().dimensions is None:
            await self._embedder.embed(["."])
        return self.fingerprint(dimensions)

    async def create(self, body: Mapping[str, object]) -> Json:
        """Return the answer to a request.

        body  input (a text or up to 2048 of them), model, encoding_format (float | base64), dimensions, input_type (passage | query; as other servers name it); others are ignored

        Raises ConsiliumError: invalid_request (with the field), model_unknown, queue_full, and what the embedder raises.
        """
        self._check_model(body.get("model"))
        texts = _texts(body.get("input"))
        form = body.get("encoding_format")
        if form not in (None, "float", "base64"):
            raise _bad("encoding_format", f"it is {form!r}; float and base64 are known")
        kind = _kind(body.get("input_type"))
        dimensions = _dimensions(body.get("dimensions"))
        if self._running >= MOST_AT_ONCE:
            raise ConsiliumError(
                "queue_full",
                name="The embedding model",
                running=self._running,
                limit=MOST_AT_ONCE,
                retry_after_s=1.0,
            )
        self._running += 1
        try:
            found = await self.embed(texts, kind, dimensions=dimensions)
        finally:
            self._running -= 1
        total = sum(found.tokens)
        return {
            "object": "list",
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _written(row, packed=form == "base64"),
                }
                for index, row in enumerate(found.values)
            ],
            "model": self.model,
            "usage": {"prompt_tokens": total, "total_tokens": total},
            "consilium": {"fingerprint": self.fingerprint(dimensions).key()},
        }

    async def embed(
        self, texts: Sequence[str], kind: Kind = "passage", *, dimensions: int | None = None
    ) -> Vectors:
        """Return one unit vector per text; `dimensions` keeps the first numbers only. Raises ConsiliumError as `create` does.

        Compare two vectors only if `fingerprint(dimensions).key()` was the same for both.
        """
        if not texts:
            return Vectors(np.empty((0, dimensions or self._dimensions or 0), np.float32), ())
        found = await self._embedder.embed(texts, kind)
        wanted = dimensions or self._dimensions
        width = int(found.values.shape[1])
        if wanted is not None and wanted > width:
            raise _bad("dimensions", f"it is {wanted}, and {self.model} has {width}")
        return Vectors(shortened(found.values, wanted), found.tokens)

    async def aclose(self) -> None:
        """Let go of threads and connections."""
        await self._embedder.aclose()

    def _check_model(self, name: object) -> None:
        known = (self.model, *ALIASES)
        if not isinstance(name, str):
            raise _bad("model", f"it is missing; this server embeds with {self.model!r}")
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.3) or [self.model]
            raise ConsiliumError("model_unknown", name=name, nearest=near[0], param="model")


def _texts(given: object) -> list[str]:
    """Return the texts of `input`. Token ids are refused: they mean something to one tokenizer only, and the caller cannot know to which."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _bad("input", "it must be a text or a list of texts")
    if len(texts) > MOST_TEXTS:
        raise _bad("input", f"it holds {len(texts)} texts, and {MOST_TEXTS} go into one request")
    for number, text in enumerate(texts):
        if isinstance(text, list) or (isinstance(text, int) and not isinstance(text, bool)):
            raise _bad(
                "input", "token ids are not taken, because they belong to one tokenizer; send text"
            )
        if not isinstance(text, str):
            raise _bad(f"input[{number}]", "it is not a text")
        if not text:
            raise _bad(f"input[{number}]", "it is empty")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _bad(
                f"input[{number}]", "it holds half of a surrogate pair, which is no character"
            )
    return texts


def _kind(given: object) -> Kind:
    kind = _KINDS.get(given) if isinstance(given, str | None) else None
    if kind is None:
        raise _bad("input_type", f"it is {given!r}; passage and query are known")
    return kind


def _dimensions(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise _bad("dimensions", f"it is {given!r}; it must be a whole number above 0")
    return given


def _written(row: Array, *, packed: bool) -> list[float] | str:
    if packed:
        return base64.b64encode(row.astype("<f4").tobytes()).decode("ascii")
    plain: list[float] = row.tolist()
    return plain


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError(
        "invalid_request", field=field, reason=reason, param=field.partition("[")[0]
    )
