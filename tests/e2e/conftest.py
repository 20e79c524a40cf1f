"""One cluster for all end-to-end tests of a run. Files run in the order of their names: clients, differential, faults, up. The last one ends the cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.bench import cluster as clusters

PLACES = 40  # 32 streams at once, and some more


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[clusters.Ours]:
    """A cluster with the tiny model and a role, brought up by the command that a user calls."""
    extra = ("--set", f"engine.max_num_seqs={PLACES}", "--set", "roles.sage.frame=You are a sage.", "--set", "gateway.drain_s=60")
    with clusters.up("tiny", tmp_path_factory.mktemp("cluster"), extra=extra) as ours:
        yield ours
