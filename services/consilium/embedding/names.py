"""Names of embedding models, and what is known by a name alone.

Pure. Does not know which models there are here.
"""

from __future__ import annotations

import re
from typing import Final

OPENAI: Final = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")
"""OpenAI's own. Token ids sent to one of these names are ids of cl100k_base: OpenAI's interface says so."""

ALIASES: Final = OPENAI
"""What clients ask for when nobody has told them another name. No name of a model that is served here under it: who asks for that one means its vectors."""

_MATRYOSHKA: Final = re.compile(
    r"qwen3-embedding|text-embedding-3-|nomic-embed-text-v(1\.5|2)|mxbai-embed-large|jina-embeddings-v[34]|arctic-embed-[lm]-v2|embeddinggemma",
    re.IGNORECASE,
)
"""Families whose makers say that they were trained for it."""


def may_be_cut(model: str) -> bool:
    """Return whether a model is known to be trained so that the first numbers of a vector are a vector too."""
    return _MATRYOSHKA.search(model) is not None
