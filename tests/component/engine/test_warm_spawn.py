"""Real processes: a spawn becomes the warm child where that is right, and goes its ordinary way where it is not."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from tests.component.engine import spawned, with_a_thread

from consilium.engine import warm_spawn
from consilium.engine.warm_plan import preloaded
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
    assert spawn(7) == {
        "pid": child,
        "late": "yes",
        "early": None,
        "cores": sorted(os.sched_getaffinity(0)),
        "ready": True,
    }
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


def led(count: int = 1, **variables: str) -> dict[str, Any]:
    queue = CONTEXT.Queue()
    process = CONTEXT.Process(
        target=spawned.lead, args=(queue, {"OMP_NUM_THREADS": "3", **variables}, count)
    )
    process.start()
    said: dict[str, Any] = queue.get(timeout=20 + 40 * count)
    process.join(20)
    assert process.exitcode == 0
    queue.close()
    queue.join_thread()
    process.close()
    return said


def twins(module: str = "xml.dom.minidom", forked_as: str = "3", count: int = 1) -> None:
    """As the core of an engine and its workers: loaded with the workers' environment, which the core does not read."""
    name, early = spawned.__name__, {"OMP_NUM_THREADS": forked_as}
    inner = Plan((), early, target=name, forked=True)
    warm_spawn.prepare(
        Plan((module,), early, target=name, then=(inner,) * count, indifferent=("OMP_",))
    )


def test_a_child_forked_after_the_imports_becomes_the_spawn_of_its_parent() -> None:
    twins()
    (core,) = warm_spawn.waiting()
    said = led()
    assert said["pid"] == core
    assert said["early"] is None
    (child,) = said["children"]
    assert child["ready"]
    assert child["early"] == "3"
    assert child["pipe"] == "through the pipe"
    assert child["cores"] == sorted(os.sched_getaffinity(0))
    assert child["code"] == 5


def test_several_are_forked_from_one_and_the_next_is_an_ordinary_spawn() -> None:
    twins(count=2)
    children = led(count=3)["children"]
    assert [child["ready"] for child in children] == [True, True, False]
    assert [child["code"] for child in children] == [5, 5, 5]
    assert len({child["pid"] for child in children}) == 3


def test_a_forked_child_with_another_environment_is_not_used() -> None:
    twins(forked_as="4")
    (child,) = led()["children"]
    assert child["early"] == "3"
    assert not child["ready"]


def test_nothing_is_forked_where_an_import_has_started_a_thread() -> None:
    twins(module=with_a_thread.__name__)
    (child,) = led()["children"]
    assert child["code"] == 5
    assert not child["ready"]


def test_a_forked_child_ends_with_whoever_was_to_become_its_parent() -> None:
    twins()
    (core,) = warm_spawn.waiting()
    parent, deadline = psutil.Process(core), time.monotonic() + 20
    while not (children := parent.children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    warm_spawn.end_unused()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 1
    assert not alive


def test_a_worker_stays_on_the_cores_that_its_openmp_was_bound_to_and_its_parent_does_not() -> None:
    """With one core allowed to the worker, which only a machine with several can tell from all of them."""
    all_cores = sorted(os.sched_getaffinity(0))
    openmp = preloaded("")
    if len(all_cores) < 2 or "libgomp" not in openmp:
        pytest.skip("one core, or another OpenMP")
    name, early = (
        spawned.__name__,
        {"OMP_NUM_THREADS": "3", "GOMP_CPU_AFFINITY": str(all_cores[0]), "LD_PRELOAD": openmp},
    )
    inner = Plan((), early, target=name, forked=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LD_PRELOAD", openmp)
        warm_spawn.prepare(
            Plan(
                ("xml.dom.minidom",),
                early,
                target=name,
                then=(inner,),
                indifferent=("OMP_", "GOMP_"),
            )
        )
        said = led(GOMP_CPU_AFFINITY=str(all_cores[0]))
    assert said["cores"] == all_cores
    (child,) = said["children"]
    assert child["ready"]
    assert child["cores"] == all_cores[:1]
