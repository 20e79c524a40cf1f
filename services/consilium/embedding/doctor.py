"""Checks of where vectors come from: the key of a remote endpoint.

Knows the section `embedding`. Does not ask the endpoint: executors and callers do.
"""

from __future__ import annotations

from typing import Final

from consilium.embedding.config import EmbeddingView
from consilium.kernel.config import environment_value
from consilium.kernel.doctor import Facts, Row, Verdict, failure, ok


def _variable(facts: Facts) -> str:
    view = facts.subject.view(EmbeddingView)
    return (view.embedding.key_env or "") if view is not None else ""


def _key(facts: Facts) -> Verdict:
    name = _variable(facts)
    return ok(name=name) if environment_value(name) is not None else failure(name=name)


ROWS: Final = (
    Row(
        "embedding_key",
        "key of the embedding endpoint",
        (),
        _key,
        "embedding.key_env names {name}, and that variable is empty or not set",
        "Export it where 'consilium up' is called.",
        "{name} is set",
        when=lambda facts: bool(_variable(facts)),
    ),
)
