"""One cluster and one bare server for all end-to-end tests of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bench import bare
from tests.bench import cluster as clusters


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Ours]:
    """A cluster with the tiny model, brought up by the command that a user calls."""
    with clusters.up("tiny", tmp_path_factory.mktemp("cluster")) as ours:
        yield ours


@pytest.fixture(scope="session")
def bare_server(cluster: clusters.Ours, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bare.Bare]:
    """The bare vLLM server with the same model folder and the same engine arguments."""
    log: Path = tmp_path_factory.mktemp("bare") / "server.log"
    with bare.serve(cluster.model_path, cluster.engine_arguments, env=cluster.engine_env, log=log, name=cluster.served) as server:
        yield server
