"""The environment that vLLM gives its workers, guessed from the same facts."""

import pytest

from consilium.engine.placement import BIND
from consilium.engine.warm_plan import (
    NO_THREADS,
    RESERVED,
    THREADS,
    WORKER_MODULES,
    cpu_engine,
    lone_core,
    preloaded,
    thread_environments,
)

ONE = {"OMP_NUM_THREADS": "1", "OMP_PLACES": "{0}", "OMP_PROC_BIND": "true"}


@pytest.mark.parametrize(
    ("environment", "ranks", "cores", "nodes", "wanted"),
    [
        ({}, 1, (0, 1), 1, (ONE,)),
        ({BIND: "auto"}, 1, (0,), 1, (ONE,)),
        (
            {},
            1,
            (1, 3, 5),
            1,
            ({"OMP_NUM_THREADS": "2", "OMP_PLACES": "{1,3}", "OMP_PROC_BIND": "true"},),
        ),
        ({BIND: "0|1"}, 2, (0, 1), 1, (ONE, {**ONE, "OMP_PLACES": "{1}"})),
        (
            {BIND: "0-2,5"},
            1,
            (0, 1),
            2,
            ({"OMP_NUM_THREADS": "4", "OMP_PLACES": "{0,1,2,5}", "OMP_PROC_BIND": "true"},),
        ),
        ({BIND: "nobind"}, 2, (0, 1), 1, ({}, {})),
        ({}, 2, (0, 1), 1, ()),
        ({}, 1, (0, 1), 2, ()),
        ({RESERVED: "2"}, 1, (0, 1), 1, ()),
        ({BIND: "0"}, 2, (0, 1), 1, ()),
        ({BIND: "x"}, 1, (0, 1), 1, ()),
        ({"LD_PRELOAD": "/lib/libiomp5.so"}, 1, (0, 1), 1, ()),
        (
            {"LD_PRELOAD": "/lib/libgomp.so.1"},
            1,
            (0, 1, 2),
            1,
            ({"OMP_NUM_THREADS": "2", "GOMP_CPU_AFFINITY": "0 1"},),
        ),
    ],
)
def test_threads(
    environment: dict[str, str],
    ranks: int,
    cores: tuple[int, ...],
    nodes: int,
    wanted: tuple[dict[str, str], ...],
) -> None:
    assert thread_environments(environment, ranks, cores, nodes) == wanted


def test_an_openmp_that_is_preloaded_already_stays_alone() -> None:
    assert (
        preloaded("/lib/libiomp5.so:/lib/libtcmalloc.so.4")
        == "/lib/libiomp5.so:/lib/libtcmalloc.so.4"
    )


def test_the_core_is_loaded_as_its_first_worker_which_is_forked_from_it() -> None:
    plan = cpu_engine({BIND: "0|1"}, 2, alone=False)
    first, second = plan.then
    assert (first.forked, second.forked) == (True, False)
    assert plan.environment == {**first.environment, **NO_THREADS}
    assert first.environment["OMP_NUM_THREADS"] == "1"
    assert set(first.modules) <= set(plan.modules)
    assert plan.indifferent == THREADS
    assert second.environment != first.environment


def test_a_core_that_computes_by_itself_is_loaded_as_a_worker_and_starts_none() -> None:
    threads = lone_core({BIND: "0"})
    assert threads is not None
    assert threads["OMP_NUM_THREADS"] == "1"
    plan = cpu_engine({BIND: "0"}, 1, alone=True)
    assert plan.then == ()
    assert set(WORKER_MODULES) <= set(plan.modules)
    assert threads.items() <= plan.environment.items()
    assert plan.indifferent == ()


def test_a_core_whose_threads_are_not_known_starts_a_worker() -> None:
    environment = {BIND: "0|1"}  # two lists for one rank: vLLM's rule, and its error
    assert lone_core(environment) is None
    assert cpu_engine(environment, 1, alone=True) == cpu_engine(environment, 1, alone=False)


def test_where_the_threads_are_not_known_nothing_is_forked() -> None:
    assert cpu_engine({}, 2, alone=False).then == ()


def test_workers_whose_threads_are_not_bound_are_all_forked() -> None:
    assert [worker.forked for worker in cpu_engine({BIND: "nobind"}, 2, alone=False).then] == [
        True,
        True,
    ]
