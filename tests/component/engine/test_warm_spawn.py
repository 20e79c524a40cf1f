"""Real processes: a spawn becomes the warm child where that is right, and goes its ordinary way where it is not."""

import multiprocessing
from collections.abc import Iterator
from typing import Any

import pytest
from tests.component.engine import spawned

from consilium.engine import warm_spawn
from consilium.engine.warm_spawn import Plan

CONTEXT = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    warm_spawn.end_unused()


def prepared(**environment: str) -> int:
    warm_spawn.prepare(Plan(("xml.dom.minidom",), environment, target=spawned.__name__))
    return warm_spawn.waiting()[0]


def spawn(code: int = 0) -> dict[str, Any]:
    queue, (here, there) = CONTEXT.Queue(), CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=spawned.work, args=(queue, there, code), daemon=True)
    process.start()
    there.close()
    said: dict[str, Any] = queue.get(timeout=20)
    assert here.recv() == "through the pipe"
    process.join(20)
    assert process.exitcode == code
    assert process.pid == said["pid"]
    queue.close()
    queue.join_thread()
    here.close()
    process.close()
    return said


def test_the_spawn_becomes_the_warm_child(monkeypatch: pytest.MonkeyPatch) -> None:
    child = prepared()
    monkeypatch.setenv("SET_LATE", "yes")
    assert spawn(7) == {"pid": child, "late": "yes", "ready": True}
    assert warm_spawn.waiting() == ()


def test_the_next_spawn_is_an_ordinary_one() -> None:
    child = prepared()
    assert spawn()["pid"] == child
    said = spawn()
    assert said["pid"] != child
    assert not said["ready"]


def test_a_variable_that_libraries_read_early_must_be_equal() -> None:
    child = prepared(OMP_NUM_THREADS="3")
    said = spawn()
    assert said["pid"] != child
    assert not said["ready"]


def test_a_dead_child_is_passed_over() -> None:
    warm_spawn.prepare(Plan((), {"PYTHONHOME": "/nowhere"}, target=spawned.__name__))
    assert spawn()["ready"] is False


def test_another_target_leaves_the_child_waiting() -> None:
    warm_spawn.prepare(Plan((), {}, target="somewhere.else"))
    child = warm_spawn.waiting()
    assert spawn()["pid"] not in child
    assert warm_spawn.waiting() == child
