"""What an embedder is: texts go in, unit vectors come out, and a fingerprint says by what they were made.

Vectors of different fingerprints must never be compared. Does not know who asks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Kind = Literal["passage", "query"]
Array: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Answers to texts, in their order.

    values  (texts, dimensions), float32, each row of length 1
    tokens  tokens of each text, as its embedder counted them; a remote one tells only the sum, which is then divided by the texts' lengths
    """

    values: Array
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that changes a vector.

    dimensions  after cutting; None until the first answer of a remote embedder
    max_tokens  longest text in tokens, or None where the embedder does not say
    told        first half of the key where another process computed it, and the other fields are not all known here
    """

    model: str
    revision: str
    dimensions: int | None
    pooling: str
    query_prefix: str = ""
    passage_prefix: str = ""
    max_tokens: int | None = None
    normalised: bool = True
    told: str = ""

    def key(self) -> str:
        """Return a short stable name: sixteen hex digits for what made the vector, a dash, and its length (? until that is known)."""
        fields = asdict(self)
        for name in ("dimensions", "told"):
            del fields[name]
        made = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.told or made}-{self.dimensions or '?'}"

    def cut_to(self, dimensions: int | None) -> Fingerprint:
        """Return the fingerprint of the same vectors cut to their first numbers; None = whole."""
        return self if dimensions is None else replace(self, dimensions=dimensions)


class Embedder(Protocol):
    """One model that turns text into vectors. Backends: offline, openai, engine, gateway."""

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text; the same text gives the same vector, whatever stands beside it.

        Raises ConsiliumError: invalid_request (a text is too long or empty), upstream_down, config_invalid (key or model refused), engine_starting,
        deadline.
        """

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""

    async def aclose(self) -> None:
        """Let go of threads and connections."""


class Vocabulary(Protocol):
    """A vocabulary whose ids can be read back as text. Backend: cl100k."""

    @property
    def name(self) -> str:
        """Name it, as callers do."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a list of ids. Raises KeyError(id), ConsiliumError(config_invalid) if its file is not installed."""


class Embedded(Protocol):
    """What the gateway's client answers: little-endian float32 rows, the tokens of all texts together, a `Fingerprint.key()`, the model's name."""

    @property
    def rows(self) -> tuple[bytes, ...]:
        """One vector per text."""

    @property
    def tokens(self) -> int:
        """Of all texts together."""

    @property
    def fingerprint(self) -> str:
        """Name what made the vectors."""

    @property
    def model(self) -> str:
        """Name the model."""


class Gateway(Protocol):
    """What rooms need of the gateway's client."""

    async def vectors(
        self, texts: Sequence[str], *, kind: Kind = "passage", timeout_s: float = 60
    ) -> Embedded:
        """Return the vectors of the cluster's own model. Raises ConsiliumError."""
