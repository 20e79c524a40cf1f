"""`consilium apply` against two gateway replicas on real sockets: on this machine by the state folder, and by --endpoint."""

import asyncio
import json
import os
import time
from dataclasses import replace

import pytest
import yaml

from consilium.cli import app
from consilium.gateway.app import View
from consilium.gateway.backends.memory import open_stores
from consilium.gateway.config import Role
from consilium.kernel.clock import SystemClock
from consilium.kernel.private_file import write_private
from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, StateFolder

from .conftest import write_config
from .test_live_config import knows, until_known

POET = {"poet": Role(frame="You rhyme.", profile="dialog")}
YAML = """
model: tiny
roles:
  poet: {frame: You rhyme., profile: dialog}
  judge: {frame_file: judge.md, profile: dialog}
profiles:
  brief: {max_tokens: 20}
"""


class Here:
    """A state folder whose cluster is this process, and the file that is applied to it."""

    def __init__(self, folder, benches, capsys):
        self.folder, self.benches, self.capsys = folder, benches, capsys
        self.file = folder.root.parent / "consilium.yaml"
        self.key = ""

    async def consilium(self, *words, here=True):
        """Run the command in a thread: the gateways live in this loop. Returns its exit code and what it said."""
        where = ("--state", str(self.folder.root)) if here else ()
        self.capsys.readouterr()
        code = await asyncio.to_thread(app.main, ["apply", "-c", str(self.file), *where, *words])
        said = self.capsys.readouterr()
        return code, said.out, said.err

    def elsewhere(self):
        return ("--endpoint", self.benches[0].url, "--key", self.key)


@pytest.fixture
async def here(gateway, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = StateFolder(tmp_path / "state")
    folder.make()
    write_config(
        folder.config,
        POET,
        model="tiny",
        gateway={"replicas": 2, "port": 8000, "grpc_port": 50051},
        metrics={"port": 9090},
        redis={"url": "redis://:hush@127.0.0.1:1/0"},
        state=str(folder.root),
        services={"thing": {"grpc": "127.0.0.1:1"}},
    )
    stores = open_stores(SystemClock(), receipt_ttl_s=600)
    benches = [await gateway(config=folder.config, view=View, stores=stores) for _ in range(2)]
    found = Here(folder, benches, capsys)
    found.key = await benches[0].new_key(scopes=frozenset({"admin"}))
    for bench in benches:
        bench.key = found.key
    folder.write_cluster(
        Cluster(
            state=str(folder.root),
            phase="up",
            mark="none",
            model="tiny",
            started=time.time(),
            boot=processes.boot_id(),
            supervisor=processes.identify(os.getpid()),
            addresses={"openai": f"{benches[0].url}/v1", "http": benches[0].url},
            ports={"redis": 1},
            key=found.key,
        )
    )
    found.file.write_text(YAML + "gateway: {replicas: 2}\n")
    (tmp_path / "judge.md").write_text("You weigh.\n")
    return found


async def test_the_difference_is_shown_and_nothing_happens(here):
    before = here.folder.config.read_bytes()
    code, out, _ = await here.consilium("--dry-run")
    assert code == 0
    assert "roles.judge" in out
    assert "profiles.brief" in out
    assert "at once" in out
    assert "You weigh." in out
    assert "poet" not in out
    assert here.folder.config.read_bytes() == before


async def test_every_replica_has_it_when_the_command_returns(here):
    code, out, err = await here.consilium("--yes")
    assert code == 0, err
    assert "All 2 gateway replicas hold it" in out
    for bench in here.benches:
        assert await knows(bench, "role/judge")
    tree = json.loads(here.folder.config.read_text())
    assert tree["redis"]["url"] == "redis://:hush@127.0.0.1:1/0"
    assert tree["services"] == {"thing": {"grpc": "127.0.0.1:1"}}
    assert (tree["gateway"]["port"], tree["state"]) == (8000, str(here.folder.root))
    assert here.folder.config.stat().st_mode & 0o777 == 0o600
    assert await here.consilium("--yes") == (
        0,
        "Nothing differs from what the cluster runs with.\n",
        "",
    )


async def test_a_frame_file_that_changes_is_a_difference(here):
    await here.consilium("--yes")
    here.file.with_name("judge.md").write_text("You weigh twice.\n")
    code, out, _ = await here.consilium("--yes", "--output", "json")
    assert code == 0
    told = json.loads(out)
    assert [(row["key"], row["old"], row["new"]) for row in told["changes"]] == [
        ("roles.judge.frame", "You weigh.", "You weigh twice.")
    ]
    assert told["applied"] is True
    print(f"taken over after {told['took_s']} s")
    assert len(told["replicas"]) == 2


async def test_what_needs_a_restart_is_named_and_nothing_is_applied(here):
    before = here.folder.config.read_bytes()
    here.file.write_text(YAML + "gateway: {replicas: 3}\nengine: {max_num_seqs: 8}\n")
    code, out, err = await here.consilium("--yes")
    assert code == 1
    assert "restart of engine" in out
    assert "engine.max_num_seqs, gateway.replicas cannot change while the cluster runs" in err
    assert f"consilium up --state {here.folder.root} -c {here.file}" in err
    assert here.folder.config.read_bytes() == before
    assert not await knows(here.benches[0], "role/judge")


async def test_a_wrong_configuration_is_refused_whole(here):
    here.file.write_text(YAML + "gateway: {replicas: 2}\nengine: {max_num_seq: 8}\n")
    code, _, err = await here.consilium("--yes")
    assert code == 64
    assert "'max_num_seqs'" in err


async def test_nobody_is_asked_where_there_is_no_terminal(here):
    code, _, err = await here.consilium()
    assert code == 2
    assert "--yes" in err


async def test_from_another_machine(here):
    code, out, err = await here.consilium("--yes", *here.elsewhere(), here=False)
    assert code == 0, err
    assert "All 2 gateway replicas hold it" in out
    for bench in here.benches:
        assert await knows(bench, "role/judge")
    code, out, _ = await here.consilium("--yes", *here.elsewhere(), here=False)
    assert (code, out) == (0, "Nothing differs from what the cluster runs with.\n")


async def test_taking_away_an_adapter_that_a_role_uses_is_told(here):
    sport = "adapters: {sport: {path: /nowhere/sport}}\n"
    coach = (
        "roles: {coach: {frame: You train., adapters: [sport@0.5]}, clerk: {frame: You file.}}\n"
    )
    held = json.loads(here.folder.config.read_text())
    write_private(here.folder.config, json.dumps(held | yaml.safe_load(sport + coach)))
    await until_known(here.benches[0], "role/clerk")
    here.file.write_text(coach)
    words = ("--dry-run", "--endpoint", here.benches[0].url, "--key", here.key)
    code, _, err = await here.consilium(*words, here=False)
    assert code == 0
    assert "warning: roles.coach.adapters: 'sport' stands in 'adapters' no more" in err


async def test_another_machine_needs_a_key_of_an_admin(here):
    words = ("--yes", "--endpoint", here.benches[0].url, "--key", await here.benches[0].new_key())
    code, _, err = await here.consilium(*words, here=False)
    assert code == 1
    assert "admin" in err


async def test_a_replica_that_does_not_follow_is_named(here, monkeypatch):
    monkeypatch.setattr("consilium.cli.gateway_config.LIMIT_S", 1.0)
    monkeypatch.setattr(
        "consilium.cli.gateway_config.wait.__kwdefaults__",
        {"limit_s": 1.0, "clock": time.monotonic},
    )
    here.benches[1].following.cancel()
    code, _, err = await here.consilium("--yes")
    assert code == 1
    assert "holds another version" in err or "1 of 2 replicas" in err


async def test_no_cluster_here(here):
    cluster = here.folder.read_cluster()
    here.folder.write_cluster(replace(cluster, supervisor=replace(cluster.supervisor, started=0.0)))
    code, _, err = await here.consilium("--yes")
    assert code == 71
    assert "No cluster is running" in err
