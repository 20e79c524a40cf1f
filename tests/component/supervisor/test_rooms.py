"""A room as a part, over real processes: it is killed, it hangs, it never starts; and in which order parts end."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.component.supervisor.running import Running, Site
from tests.greeter.faults import FILE
from tests.greeter.room import ROOM
from tests.waiting import sooner_than, until

from consilium.kernel.ports import free_port
from consilium.supervisor import factories, gateway_link, processes, silence
from consilium.supervisor.gateway_link import wait_until_idle
from consilium.supervisor.loop import Supervisor
from consilium.supervisor.part_process import ProbeWork
from consilium.supervisor.parts import places_of, row_of_room, services
from consilium.supervisor.states import Part

REPOSITORY = Path(__file__).parents[3]
# Says when it was told to end, takes its time, and says when it has.
SLOW = """
import pathlib, signal, sys, time
ready, said, seconds = pathlib.Path(sys.argv[1]), sys.argv[1].replace("ready", "said"), float(sys.argv[2])
def end(*_):
    with open(said, "a") as file: file.write(f"told {time.monotonic()}\\n")
    time.sleep(seconds)
    with open(said, "a") as file: file.write(f"ended {time.monotonic()}\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
ready.touch()
while True: time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def _importable(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms inherit the environment of the supervisor, its mark among it."""
    for name, value in site.environment.items():
        if name.startswith("CONSILIUM_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{REPOSITORY / 'services'}:{REPOSITORY}")


def with_greeter(site: Site, fault: str = "", **row: float) -> Supervisor:
    """A vital part, and the greeter beside it with a way not to start.

    row  what its row says otherwise; without a word of it no busy machine is silent for too long
    """
    site.folder.make_secrets()
    if fault:
        (site.folder.root / FILE).write_text(fault)
    drawn = {place.name: free_port() for place in places_of(ROOM)}
    site.cluster = replace(site.cluster, ports=drawn)
    site.folder.config.write_text(json.dumps({"services": services((ROOM,), drawn)}))
    made = factories.Site(site.folder, site.cluster, {}, "x", (ROOM,))
    works = {"vital": ProbeWork(lambda: (True, "")), ROOM.name: factories.room_work(ROOM)(made)}
    return site.supervisor(works, replace(row_of_room(ROOM), **{"silent_s": 60.0, **row}))  # type: ignore[arg-type]


def came_up(running: Running, phase: str = "up") -> None:
    until(lambda: running.supervisor.cluster.phase == phase)


def test_a_killed_room_is_back(site: Site) -> None:
    running = Running(with_greeter(site))
    came_up(running)
    room = running.supervisor.cluster.parts[ROOM.name].pids[0]
    processes.send(room, signal.SIGKILL)
    spent = until(
        lambda: running.part(ROOM.name).restarts == 1 and running.state(ROOM.name) == "up"
    )
    print(f"back after {spent:.2f} s")
    assert running.stop() == 0
    assert processes.marked(site.cluster.mark) == ()


def test_a_stopped_room_is_ended_and_started_again(site: Site) -> None:
    running = Running(with_greeter(site, silent_s=ROOM.silent_s))
    came_up(running)
    room = running.part(ROOM.name).pids[0]
    processes.send(room, signal.SIGSTOP)
    spent = until(lambda: running.part(ROOM.name).restarts >= 1)
    print(f"started again after {spent:.2f} s of {ROOM.silent_s} s")
    assert not processes.is_alive(room)
    assert "did not answer for" in running.part(ROOM.name).why or (running.state(ROOM.name) == "up")
    came_up(running)
    assert running.stop() == 0


@pytest.mark.parametrize("fault", ["break", "hang"])
def test_a_room_that_never_starts_leaves_the_cluster_degraded(site: Site, fault: str) -> None:
    running = Running(with_greeter(site, fault))
    came_up(running, "degraded")
    written = site.folder.read_cluster()
    assert written is not None
    assert written.failure is None
    part = written.parts[ROOM.name]
    assert not part.vital
    assert part.down > 0
    if fault == "break":
        until(
            lambda: "Something unexpected ended this process" in running.part(ROOM.name).why,
            why="one that has not answered yet is degraded, too",
        )
        until(lambda: running.part(ROOM.name).restarts >= 2)  # it is tried for ever
    assert running.code is None
    assert running.stop() == 0


def test_a_room_that_says_that_it_is_starting_is_left_alone(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its migrations may take minutes. It was ended once START_S had passed, and again, for ever."""
    monkeypatch.setattr(silence, "START_S", 0.5)
    supervisor = with_greeter(site, "hang", silent_s=10.0)
    works = dict(supervisor._works)
    running = Running(supervisor)
    until(lambda: works[ROOM.name].answer(0.1).heard)
    first = works[ROOM.name].pids()
    time.sleep(12.0)
    until(lambda: running.part(ROOM.name).detail == "starting")
    assert running.part(ROOM.name).restarts == 0
    assert works[ROOM.name].pids() == first
    processes.send(first[0], signal.SIGSTOP)  # now it says nothing at all
    until(lambda: running.part(ROOM.name).restarts >= 1)
    assert running.stop() == 0


def test_a_room_that_says_for_ever_that_it_is_starting_is_started_again(site: Site) -> None:
    running = Running(with_greeter(site, "hang", not_ready_s=2.0))
    until(lambda: running.state(ROOM.name) == "starting")
    until(lambda: running.part(ROOM.name).restarts >= 1)
    assert "said for 2 s that it is not ready (starting)" in running.part(ROOM.name).why
    assert running.stop() == 0


def test_a_room_does_not_write_into_the_folder_of_the_gateways_figures(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures stand on its own page; in the folder too, the joined page would count them twice."""
    monkeypatch.setenv(factories.OTHERS_FIGURES, str(site.folder.metrics))
    running = Running(with_greeter(site))
    came_up(running)
    room = running.part(ROOM.name).pids[0]
    environment = Path(f"/proc/{room.pid}/environ").read_bytes().split(b"\0")
    assert not [line for line in environment if line.startswith(b"PROMETHEUS_MULTIPROC_DIR=")]
    assert any(line.startswith(b"CONSILIUM_MARK=") for line in environment)
    assert list(site.folder.metrics.iterdir()) == []
    assert running.stop() == 0


def test_a_stopped_room_is_shown_before_its_limit_is_over(site: Site) -> None:
    running = Running(with_greeter(site))
    came_up(running)
    processes.send(running.part(ROOM.name).pids[0], signal.SIGSTOP)
    until(lambda: running.state(ROOM.name) == "silent")
    until(lambda: running.supervisor.cluster.phase == "degraded")
    assert running.part(ROOM.name).restarts == 0
    assert running.stop() == 0


def test_a_room_that_refuses_is_shown_with_its_sentence_and_tried_again_once_that_was_mended(
    site: Site,
) -> None:
    running = Running(with_greeter(site, "refuse"))
    came_up(running, "degraded")
    until(lambda: running.state(ROOM.name) == "failed")
    assert running.part(ROOM.name).why == "The collections cannot be served: a test wants it so"
    time.sleep(1.0)
    assert running.part(ROOM.name).restarts == 0
    (site.folder.root / FILE).unlink()
    os.utime(site.folder.config)  # as `apply` leaves it
    came_up(running)
    assert running.part(ROOM.name).why == ""
    assert running.stop() == 0


def test_each_part_gets_its_own_grace_and_those_above_end_first(site: Site) -> None:
    """`worker` claims and stands on `store`; it takes a second of its time, and nobody tells it twice. `deaf` is ended when its grace is over."""
    works = {
        name: site.process(
            name,
            SLOW,
            str(site.folder.root / f"{name}.ready"),
            seconds,
            probe=lambda name=name: ((site.folder.root / f"{name}.ready").exists(), ""),
        )
        for name, seconds in (("store", "0.2"), ("worker", "1.0"), ("deaf", "600"))
    }
    supervisor = site.supervisor(
        works,
        Part("store", stop_s=30.0),
        Part("worker", needs=("store",), vital=False, stop_s=30.0, claims=True),
        Part("deaf", vital=False, stop_s=4.0),
    )
    running = Running(supervisor)
    came_up(running)
    supervisor.ask_to_stop()
    supervisor.ask_to_stop()
    assert running.stop() == 0, "`deaf` would take ten minutes"
    said = {
        name: dict(
            line.split() for line in (site.folder.root / f"{name}.said").read_text().splitlines()
        )
        for name in works
    }
    assert set(said["worker"]) == set(said["store"]) == {"told", "ended"}
    assert "ended" not in said["deaf"]
    assert float(said["worker"]["ended"]) < float(said["store"]["told"])
    assert float(said["worker"]["ended"]) < float(said["deaf"]["told"])
    assert processes.marked(site.cluster.mark) == ()


def test_a_process_that_was_stopped_keeps_nobody_waiting_at_the_end(site: Site) -> None:
    running = Running(site.supervisor({"ray": site.head()}, Part("ray", stop_s=50.0)))
    came_up(running)
    processes.send(running.part("ray").pids[0], signal.SIGSTOP)
    with sooner_than(50.0):
        assert running.stop() == 0


def test_those_who_claim_work_are_told_before_the_gateway_refuses(site: Site) -> None:
    wait_until_idle(site.folder, {}, claims=True)
    draining, closing = (
        file.stat().st_mtime for file in (site.folder.draining, site.folder.closing)
    )
    assert closing - draining >= 0.4


def test_where_nobody_claims_work_the_gateway_refuses_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_link, "_CLAIMERS_S", 60.0)
    with sooner_than(60.0):
        wait_until_idle(site.folder, {}, claims=False)
    assert site.folder.closing.exists()
