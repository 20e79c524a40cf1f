"""A room in a cluster that a user would bring up: it is killed, it is stopped, it refuses to start. None of that costs an answer."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import pytest
from tests.bench.cluster import Ours
from tests.command import consilium
from tests.greeter.faults import FILE
from tests.greeter.room import ROOM
from tests.waiting import until

from consilium.supervisor import processes
from consilium.supervisor.state_folder import Cluster, PartRecord, StateFolder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PARTS_UP_S = 300.0  # the file before this one has killed some
BACK_S = 120.0


def known(ours: Ours) -> Cluster:
    found = StateFolder(ours.state).read_cluster()
    assert found is not None
    return found


def greeter(ours: Ours) -> PartRecord:
    return known(ours).parts[ROOM.name]


def well(ours: Ours) -> bool:
    at = json.loads((ours.state / "config.json").read_text())["services"][ROOM.name]["metrics"]
    try:
        return httpx.get(f"{at}/healthz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def answers(ours: Ours) -> bool:
    ask = {"model": "base", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    key = {"Authorization": f"Bearer {ours.key}"}
    reply = httpx.post(f"{ours.url}/v1/chat/completions", json=ask, headers=key, timeout=120)
    return reply.status_code == 200


def pss_bytes(ours: Ours) -> int:
    """What the room weighs by `status`, which waits for no figure: on a busy machine it shows none."""
    status = consilium("status", "--output", "json", "--state", str(ours.state))
    assert status.returncode == 0
    return int(json.loads(status.stdout)["parts"][ROOM.name]["pss_bytes"])


@pytest.fixture(autouse=True)
def _whole(cluster: Ours) -> None:
    """All parts are up before each test."""
    until(lambda: known(cluster).phase == "up", PARTS_UP_S, "all parts were up")


def test_a_room_is_a_part_with_an_address_a_log_and_a_page(cluster: Ours) -> None:
    part = greeter(cluster)
    services = json.loads((cluster.state / "config.json").read_text())["services"]
    assert services[ROOM.name].keys() == {"grpc", "http", "metrics"}
    assert services[ROOM.name]["grpc"] in part.address
    assert (part.vital, part.words, part.why) == (False, ROOM.words, "")
    token = cluster.state / "token"
    assert len(token.read_text().strip()) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert "service_up" in consilium("logs", ROOM.name, "--state", str(cluster.state)).stdout
    page = httpx.get(known(cluster).addresses["metrics"], timeout=120).text
    assert 'consilium_part_up{part="greeter"} 1' in page
    assert 'consilium_room_up{part="greeter"' in page
    until(lambda: pss_bytes(cluster) > 0, BACK_S, "status had the time to weigh it", every_s=0.5)


def test_a_killed_room_is_back_and_that_is_written_down(cluster: Ours) -> None:
    before = greeter(cluster)
    processes.send(before.pids[0], signal.SIGKILL)
    until(lambda: not processes.is_alive(before.pids[0]), BACK_S, "it died")
    spent = until(lambda: well(cluster), BACK_S, "the room was back")
    print(f"the greeter was back after {spent:.2f} s")
    until(lambda: greeter(cluster).restarts == before.restarts + 1, BACK_S, "that was written down")
    assert answers(cluster)


def test_a_stopped_room_is_ended_and_started_again(cluster: Ours) -> None:
    before = greeter(cluster)
    processes.send(before.pids[0], signal.SIGSTOP)
    assert answers(cluster)
    spent = until(lambda: not processes.is_alive(before.pids[0]), BACK_S, "it was ended")
    print(f"the greeter was ended after {spent:.2f} s of {ROOM.silent_s} s")
    until(lambda: well(cluster), BACK_S, "the room was back")


def test_a_room_that_refuses_to_start_leaves_the_cluster_degraded_and_is_tried_again_once_that_is_mended(
    cluster: Ours,
) -> None:
    fault = cluster.state / FILE
    fault.write_text("refuse")
    try:
        processes.send(greeter(cluster).pids[0], signal.SIGKILL)
        until(lambda: greeter(cluster).state == "failed", BACK_S, "it was given up")
        until(lambda: known(cluster).phase == "degraded", BACK_S, "that was written down")
        assert "a test wants it so" in greeter(cluster).why
        said = consilium("status", "--state", str(cluster.state))
        assert said.returncode == 3
        assert "degraded: greeter is failed, down since" in said.stdout
        assert answers(cluster)
    finally:
        fault.unlink()
        touched(cluster.state / "config.json")
    until(lambda: known(cluster).phase == "up", BACK_S, "it was tried again")


def touched(config: Path) -> None:
    """As `apply` leaves it."""
    os.utime(config)
