"""Reads what an OpenAI-compatible server says to an embeddings request: vectors, or an error.

Knows the JSON. Does not know how it came.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import numpy as np

from consilium.embedding.ports import Array, Vectors
from consilium.embedding.vectors import divided, normalised
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.openai_errors import said_in


def parse(raw: bytes, texts: Sequence[str], name: str) -> Vectors:
    """Return the vectors of a good answer, in the order of the texts, normalised.

    Raises ConsiliumError(upstream_down) if it is not what OpenAI's interface promises: the server is there and talks nonsense.
    """
    try:
        body = json.loads(raw)
        rows: dict[int, Array] = {int(row["index"]): _row(row["embedding"]) for row in body["data"]}
        values = np.stack([rows[index] for index in range(len(texts))])
        total = int((body.get("usage") or {}).get("prompt_tokens") or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise _nonsense(name, f"{type(cause).__name__}: {cause}") from cause
    if (
        len(rows) != len(texts)
        or values.ndim != 2
        or not values.shape[1]
        or not np.isfinite(values).all()
    ):
        raise _nonsense(name, f"{len(rows)} vectors of shape {values.shape} for {len(texts)} texts")
    return Vectors(normalised(values), divided(total, [len(text.encode()) for text in texts]))


def refusal(status: int, raw: bytes, name: str, retry_after_s: float | None) -> ConsiliumError:
    """Return our error for a status that is not 200. A refused key and an unknown model are the configuration's fault."""
    said = said_in(raw, status).message
    if status in (401, 403):
        return ConsiliumError(
            "config_invalid",
            said,
            key="embedding.key_env",
            reason=f"{name} refuses the key (HTTP {status})",
        )
    if status == 404:
        return ConsiliumError(
            "config_invalid",
            said,
            key="embedding.model",
            reason=f"{name} knows no such model or path: {said}",
        )
    if status == 429 or status >= 500:
        return ConsiliumError(
            "upstream_down",
            f"status={status} {said}",
            name=name,
            retry_after_s=retry_after_s or 1.0,
        )
    return ConsiliumError(
        "invalid_request",
        f"status={status}",
        field="input",
        reason=said,
    )


def _row(embedding: object) -> Array:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.asarray(embedding, dtype=np.float32)


def _nonsense(name: str, detail: str) -> ConsiliumError:
    return ConsiliumError(
        "upstream_down", f"no embeddings answer: {detail}", name=name, retry_after_s=1.0
    )
