"""/v1/embeddings in this process: an OpenAI request goes in, an OpenAI answer comes out.

Knows the interface's rules. Does not know HTTP, keys, quotas, or which backend answers.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final, TypeAlias

import numpy as np

from consilium.embedding import token_ids
from consilium.embedding.names import OPENAI
from consilium.embedding.ports import Array, Embedder, Fingerprint, Kind, Vectors, Vocabulary
from consilium.embedding.vectors import shortened
from consilium.kernel.errors import ConsiliumError

Json: TypeAlias = dict[str, object]

MOST_TEXTS: Final = 2048  # OpenAI's own limit
MOST_AT_ONCE: Final = 64
"""Requests in work; texts and tokens of those that wait are in memory."""
AUTO: Final = "auto"
EMBEDDING: Final = "embedding"
_KINDS: Final[dict[object, Kind]] = {
    None: "passage",
    "passage": "passage",
    "document": "passage",
    "query": "query",
}


class Embeddings:
    """The embeddings endpoint, for the gateway and for the rooms that need vectors.

    model  its true name, which stands in every answer
    names  names that callers may send besides `auto`, the true one first
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        model: str,
        aliases: Sequence[str] = (),
        dimensions: int | None = None,
        may_be_cut: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Take the model behind the endpoint.

        aliases     further names for it
        dimensions  length to which every vector is cut; None = whole
        may_be_cut  whether callers may ask for shorter vectors
        vocabulary  by which token ids are read where a request says that they are its
        """
        self._embedder = embedder
        self._dimensions = dimensions
        self._may_be_cut = may_be_cut
        self._vocabulary = vocabulary
        self._running = 0
        self.model = model
        self.names = tuple(dict.fromkeys((model, *aliases, EMBEDDING)))

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

        body  input (a text or up to 2048 of them), model, encoding_format (float | base64), dimensions, input_type (passage | query; as other servers name it),
              tokenizer (cl100k_base, where `input` holds its token ids); others are ignored

        Raises ConsiliumError: invalid_request (with the field), model_unknown, queue_full, and what the embedder raises.
        """
        self._check_model(body.get("model"))
        given, vocabulary = body.get("input"), None
        if token_ids.are_ids(given):
            vocabulary = self._vocabulary_of(body)
            # Reading the vocabulary for the first time takes a while.
            given = await asyncio.to_thread(token_ids.texts, given, vocabulary)
        texts = _texts(given)
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
            "consilium": {
                "fingerprint": self.fingerprint(dimensions).key(),
                **({"tokenizer": vocabulary.name} if vocabulary is not None else {}),
            },
        }

    async def embed(
        self, texts: Sequence[str], kind: Kind = "passage", *, dimensions: int | None = None
    ) -> Vectors:
        """Return one unit vector per text; `dimensions` keeps the first numbers only, where the model allows that. Raises ConsiliumError as `create` does.

        Compare two vectors only if `fingerprint(dimensions).key()` was the same for both.
        """
        if not texts:
            return Vectors(np.empty((0, dimensions or self._dimensions or 0), np.float32), ())
        wanted = dimensions or self._dimensions
        if (width := self._embedder.fingerprint().dimensions) is not None:
            self._check_length(wanted, width)
        found = await self._embedder.embed(texts, kind)
        self._check_length(wanted, int(found.values.shape[1]))
        return Vectors(shortened(found.values, wanted), found.tokens)

    async def aclose(self) -> None:
        """Let go of threads and connections."""
        await self._embedder.aclose()

    def _check_length(self, wanted: int | None, width: int) -> None:
        """Raise ConsiliumError(invalid_request) if a vector of `width` numbers may not be given with `wanted` ones."""
        if wanted in (None, width):
            return
        reason = f"it is {wanted}, and {self.model} has {width}"
        if wanted is not None and wanted < width:
            if self._may_be_cut or wanted == self._dimensions:
                return
            reason += (
                " and is not known to be trained for fewer. If it was, set embedding.matryoshka"
            )
        raise _bad("dimensions", reason)

    def _check_model(self, name: object) -> None:
        if not isinstance(name, str):
            raise _bad("model", f"it is missing; this server embeds with {self.model!r}")
        if name != AUTO and name not in self.names:
            near = get_close_matches(name, self.names, n=1, cutoff=0.3) or [self.model]
            raise ConsiliumError("model_unknown", name=name, nearest=near[0], param="model")

    def _vocabulary_of(self, body: Mapping[str, object]) -> Vocabulary:
        """Return the vocabulary that a request's token ids belong to: the one that it names, or that its model's name means. Raises ConsiliumError(invalid_request)."""
        known, told = self._vocabulary, body.get("tokenizer")
        if known is None or (told is None and body.get("model") not in OPENAI):
            raise _bad("input", token_ids.OF_NOBODY)
        if told not in (None, known.name):
            raise _bad("tokenizer", f"it is {told!r}; token ids are read by {known.name} only")
        return known


def _texts(given: object) -> list[str]:
    """Return the texts of `input`. Raises ConsiliumError(invalid_request)."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _bad("input", "it must be a text or a list of texts")
    if len(texts) > MOST_TEXTS:
        raise _bad("input", f"it holds {len(texts)} texts, and {MOST_TEXTS} go into one request")
    for number, text in enumerate(texts):
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
