"""The models that come in wheels, by name.

Knows which there are. Does not know what they do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from consilium.embedding.backends import e5, minilm, minilm_e5
from consilium.embedding.backends.offline import Model, Offline, threads_for
from consilium.embedding.backends.one_model import Options

MODELS: Final[Mapping[str, Callable[[Options], Model]]] = {
    minilm_e5.NAME: minilm_e5.MiniLmE5,
    minilm.NAME: minilm.MiniLM,
    e5.NAME: e5.E5,
}


def open_offline(
    name: str,
    *,
    max_tokens: int | None = None,
    truncate: bool = False,
    batch: int = 32,
    threads: int | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
) -> Offline:
    """Return the embedder of that name; its files are opened by the first request. The options are those of the configuration."""
    model = MODELS[name](
        Options(threads_for(threads), max_tokens, truncate, query_prefix, passage_prefix)
    )
    return Offline(model, batch=batch)
