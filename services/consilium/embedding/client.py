"""What other rooms import: from the configuration to an embeddings endpoint in this process.

Knows the backends. Does not know who asks.
"""

from __future__ import annotations

from consilium.embedding.cache import Cached
from consilium.embedding.config import OFFLINE, Embedding
from consilium.embedding.names import may_be_cut
from consilium.embedding.ports import Embedder, Fingerprint, Gateway, Kind, Vectors
from consilium.embedding.service import Embeddings
from consilium.engine.client import EngineClient
from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError

__all__ = [
    "Embedding",
    "Embeddings",
    "Fingerprint",
    "Gateway",
    "Kind",
    "Vectors",
    "open_embeddings",
]


def open_embeddings(
    config: Embedding, engines: EngineClient | None = None, gateway: Gateway | None = None
) -> Embeddings:
    """Return the endpoint. Nothing is loaded or asked before the first request.

    engines  needed for backend engine; it stays the caller's
    gateway  for rooms other than the gateway: it is asked whatever the backend, so that a model is loaded once per cluster; it stays the caller's

    Raises ConsiliumError(config_invalid) if the key's variable is empty, or engines are missing.
    """
    if gateway is None:
        embedder, cut = _backend(config, engines), config.dimensions
    else:
        from consilium.embedding.backends.gateway import GatewayEmbedder  # noqa: PLC0415

        # The gateway cuts to the dimensions of the same configuration.
        embedder, cut = GatewayEmbedder(gateway, timeout_s=config.timeout_s), None
    if config.cache_mib:
        embedder = Cached(embedder, config.cache_mib << 20)
    from consilium.embedding.backends.cl100k import Cl100k  # noqa: PLC0415

    model = model_name(config)
    return Embeddings(
        embedder,
        model=model,
        aliases=_aliases(config),
        dimensions=cut,
        may_be_cut=may_be_cut(model) if config.matryoshka is None else config.matryoshka,
        vocabulary=Cl100k(),
    )


def model_name(config: Embedding) -> str:
    """Return the name that callers send, for /v1/models too."""
    return config.model or OFFLINE[0]


def _aliases(config: Embedding) -> tuple[str, ...]:
    """Return the further names of the model. An executor of ours is found by its own name as well."""
    if config.backend != "engine":
        return config.aliases
    return (f"executor/{config.executor}", str(config.executor), *config.aliases)


def _backend(config: Embedding, engines: EngineClient | None) -> Embedder:
    prefixes = {"query_prefix": config.query_prefix, "passage_prefix": config.passage_prefix}
    if config.backend == "offline":
        from consilium.embedding.backends.catalogue import open_offline  # noqa: PLC0415

        return open_offline(
            model_name(config),
            max_tokens=config.max_tokens,
            truncate=config.truncate,
            batch=config.batch,
            threads=config.threads,
            **prefixes,
        )
    if config.backend == "openai":
        from consilium.embedding.backends.openai import OpenAI  # noqa: PLC0415

        key = _key(config.key_env)
        return OpenAI(
            str(config.url),
            str(config.model),
            key=key,
            batch=config.batch,
            timeout_s=config.timeout_s,
            max_tokens=config.max_tokens,
            **prefixes,
        )
    from consilium.embedding.backends.engine import EngineEmbedder  # noqa: PLC0415

    if engines is None:
        raise ConsiliumError(
            "config_invalid",
            key="embedding.backend",
            reason="engine needs the executors, and this process has none",
        )
    executor, model = str(config.executor), str(config.model)
    return EngineEmbedder(
        engines,
        executor,
        model,
        batch=config.batch,
        timeout_s=config.timeout_s,
        max_tokens=config.max_tokens,
        **prefixes,
    )


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = environment_value(variable)
    if key is None:
        raise ConsiliumError(
            "config_invalid",
            key="embedding.key_env",
            reason=f"the environment variable {variable} is empty or not set",
        )
    return key
