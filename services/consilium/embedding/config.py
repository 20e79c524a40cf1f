"""What the embedding room reads of consilium.yaml.

Knows shapes of the configuration. Does not know models.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from consilium.embedding import names
from consilium.kernel.config import Section, restarts
from consilium.kernel.config_refusal import WrongValueError, no_such

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


OFFLINE: Final = ("minilm-e5", "all-MiniLM-L6-v2", "multilingual-e5-small")
"""Models that come in wheels; the first is the default."""


class Embedding(Section):
    """Where vectors come from."""

    backend: Literal["offline", "openai", "engine"] = Field(
        "offline", description="offline = small models from wheels, on the CPU."
    )
    model: str | None = Field(
        None,
        min_length=1,
        description=(
            "Name that callers send, and that the endpoint knows. Offline: minilm-e5 (the default; Russian, English and others, 768 numbers), "
            "all-MiniLM-L6-v2 (English, 384), multilingual-e5-small (384)."
        ),
    )
    url: str | None = Field(None, pattern=r"^https?://", description="openai: base URL with /v1.")
    key_env: str | None = Field(
        None, description="openai: environment variable that holds the key."
    )
    executor: Name | None = Field(
        None, description="engine: the executor that serves an embedding model."
    )
    aliases: tuple[str, ...] = Field(
        names.ALIASES,
        description=(
            "Further names for this model, so that clients with a name of their own work as they are; the answer names the true one. Empty = none."
        ),
    )
    dimensions: int | None = Field(
        None,
        ge=1,
        description="Keep only the first N numbers of a vector, for models that were trained for it.",
    )
    matryoshka: bool | None = Field(
        None,
        description=(
            "Whether callers may ask for fewer dimensions: the model was trained so that the first numbers of a vector are a vector too. "
            "Empty = known by its name (Qwen3-Embedding, nomic-embed-text-v1.5 and others)."
        ),
    )
    query_prefix: str = Field(
        "", description="Text before a query, such as the instruction that Qwen3-Embedding wants."
    )
    passage_prefix: str = Field("", description="Text before a passage.")
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="Longest text in tokens; offline at most 512. Empty = what the model takes.",
    )
    truncate: bool = Field(False, description="Offline: cut longer texts instead of refusing them.")
    batch: int = Field(32, ge=1, le=2048, description="Texts in one run or one call.")
    threads: int | None = Field(
        None,
        ge=1,
        description="Offline: CPU threads of one run; empty = half of the cores, at most 4.",
    )
    timeout_s: float = Field(60, gt=0, description="openai: longest wait for one call.")
    cache_mib: int = Field(
        64, ge=0, description="Memory for vectors of texts seen before; 0 = none."
    )

    @model_validator(mode="after")
    def _backend_has_what_it_needs(self) -> Embedding:
        if self.backend == "openai" and (self.url is None or self.model is None):
            msg = "backend openai needs url and model"
            raise ValueError(msg)
        if self.backend == "offline" and self.model not in (None, *OFFLINE):
            raise WrongValueError(
                ("embedding", "model"), *no_such(str(self.model), "offline model", OFFLINE)
            )
        if self.backend == "engine" and (self.executor is None or self.model is None):
            msg = "backend engine needs executor and model"
            raise ValueError(msg)
        return self


class EmbeddingView(Section):
    """The part of the tree that this room reads."""

    model_config = Section.model_config | {"extra": "ignore"}

    embedding: Embedding = Field(default_factory=Embedding, json_schema_extra=restarts("gateway"))
