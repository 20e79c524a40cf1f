"""`consilium keys` on the machine of a cluster whose gateway is down: the store of keys is asked itself, a true Valkey."""

import json
import os
import threading
import time

import pytest
import structlog
from tests.component.gateway.greeter import free_port
from tests.real.valkey import Valkey

from consilium.cli import app
from consilium.cli import keys as command
from consilium.gateway import key_requests
from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, StateFolder


class Folder(str):
    """A state folder, and the server of its cluster."""

    __slots__ = ("server",)

    def __new__(cls, root, server):
        made = super().__new__(cls, root)
        made.server = server
        return made


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
        yield Folder(str(folder.root), server)
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


def made(capsys, state, name="bob"):
    _, said = call(capsys, "create", "--name", name, "--state", state, "--output", "json")
    return json.loads(said.out)["id"]


@pytest.mark.parametrize("columns", ["20", "80", "300"])
def test_ids_are_whole_whatever_the_width(state, capsys, monkeypatch, columns):
    names = [made(capsys, state, "a long name of a key " * 5) for _ in range(2)]
    monkeypatch.setenv("COLUMNS", columns)
    _, said = call(capsys, "list", "--state", state)
    rows = [line for line in said.out.splitlines() if line[:12] in names]
    assert len(rows) == 2, "one line for each key, with its id"
    assert "…" not in said.out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    _, said = call(capsys, "list", "--state", state)
    assert all(name in said.out for name in names)


def test_the_beginning_of_an_id_is_enough_if_it_is_that_of_one_key(state, capsys):
    name = made(capsys, state)
    words = ("--state", state, "--output", "json")
    for text in (name[:4], name[:9] + "…", name[:11] + "..."):
        _, said = call(capsys, "show", text, *words)
        assert json.loads(said.out)["id"] == name
    code, said = call(capsys, "revoke", name[:3], *words)
    assert (code, "at least 4" in said.err) == (1, True)
    _, said = call(capsys, "revoke", name[:6], *words)
    assert json.loads(said.out)["revoked"] == name


def test_a_key_that_cannot_be_revoked_is_told_how_long_it_opens(state, capsys):
    name = made(capsys, state)
    state.server.kill()
    code, said = call(capsys, "revoke", name, "--state", state)
    assert code == 1
    assert f"The key {name} was not revoked" in said.err
    assert "for up to 60 s more" in said.err
    assert f"consilium keys revoke {name} --wait" in said.err


def test_wait_goes_on_until_the_store_is_back_and_no_gateway_can_hold_the_key(
    state, capsys, monkeypatch
):
    name = made(capsys, state)
    monkeypatch.setattr(command, "AGAIN_S", 0.1)
    monkeypatch.setattr(command, "_CACHE_S", 0.0)
    monkeypatch.setattr(key_requests, "MARGIN_S", 1.0)
    state.server.kill()
    back = threading.Timer(1.0, state.server.start)
    began = time.monotonic()
    back.start()
    code, said = call(capsys, "revoke", name, "--wait", "--state", state)
    back.join()
    assert time.monotonic() - began > 1.5
    assert (code, said.out) == (0, f"Revoked {name}, and no gateway lets it in any more.\n")
    assert "Not yet: " in said.err
    _, said = call(capsys, "show", name, "--state", state, "--output", "json")
    assert json.loads(said.out)["state"] == "This API key was revoked."
