"""Embed over gRPC as `client.py` asks it: kinds and vectors between protobuf and plain values.

Does not know channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from consilium.v1 import generation_pb2 as pb

Kind: TypeAlias = Literal["passage", "query"]
_KINDS: Final = {"passage": pb.EMBED_KIND_PASSAGE, "query": pb.EMBED_KIND_QUERY}


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of texts.

    rows         little-endian float32, in the order of the texts
    tokens       of all texts together
    fingerprint  name of everything that shapes a vector; those of different fingerprints must never be compared
    """

    rows: tuple[bytes, ...]
    tokens: int
    fingerprint: str
    model: str


def request(
    texts: Sequence[str], kind: Kind, model: str, dimensions: int | None
) -> pb.EmbedRequest:
    """Return the message that asks."""
    return pb.EmbedRequest(model=model, texts=texts, kind=_KINDS[kind], dimensions=dimensions)


def embedded(found: pb.EmbedResponse) -> Embedded:
    """Return what an answer holds."""
    rows = tuple(row.values_f32 for row in found.embeddings)
    return Embedded(rows, found.usage.prompt_tokens, found.fingerprint, found.model)
