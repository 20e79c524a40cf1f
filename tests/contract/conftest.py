"""A real server for the stores: the Valkey of the wheel, as users have it, ended after the tests."""

import pytest
from tests.real.valkey import Valkey


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def own_valkey(tmp_path):
    """A server of this test alone, not started yet."""
    server = Valkey(tmp_path / "valkey")
    yield server
    server.stop()
