"""`consilium keys` on the machine of a cluster whose gateway is down: the store of keys is asked itself, a true Valkey."""

import json
import os
import time

import pytest
import structlog
from tests.component.gateway.greeter import free_port
from tests.real.valkey import Valkey

from consilium.cli import app
from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, StateFolder


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.delenv("CONSILIUM_ENDPOINT", raising=False)
    folder = StateFolder(tmp_path / "state")
    folder.make()
    folder.make_secrets()
    with Valkey(tmp_path / "valkey") as server:
        cluster = Cluster(
            state=str(folder.root),
            phase="degraded",
            mark="m",
            model="tiny",
            started=time.time(),
            boot=processes.boot_id(),
            supervisor=processes.identify(os.getpid()),
            addresses={"openai": f"http://127.0.0.1:{free_port()}/v1", "redis": server.url},
        )
        folder.write_cluster(cluster)
        yield str(folder.root)
    structlog.reset_defaults()  # the command speaks to a stderr that is gone now


def call(capsys, *words):
    code = app.main(["keys", *words])
    return code, capsys.readouterr()


def test_keys_are_made_listed_and_revoked(state, capsys):
    words = ("--state", state, "--output", "json")
    code, said = call(capsys, "create", "--name", "bob", "--owner", "ann", *words)
    made = json.loads(said.out)
    assert (code, made["owner"], made["scopes"]) == (0, "ann", "generate")
    _, said = call(capsys, "list", *words)
    assert [row["id"] for row in json.loads(said.out)] == [made["id"]]
    assert call(capsys, "revoke", made["key"], *words)[0] == 0
    _, said = call(capsys, "show", made["id"], *words)
    assert json.loads(said.out)["state"] == "This API key was revoked."
    assert call(capsys, "revoke", "0" * 12, *words)[0] == 4


def test_a_scope_that_there_is_not_is_told_the_nearest(state, capsys):
    code, said = call(capsys, "create", "--name", "bob", "--scopes", "genrate", "--state", state)
    assert code != 0
    assert "'generate'" in said.err


def test_a_cluster_elsewhere_has_no_store_to_fall_back_to(state, capsys):
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, said = call(capsys, "list", "--state", state, "--endpoint", endpoint, "--key", "x")
    assert code == 1
    assert "not answering" in said.err
