"""The environment that vLLM gives its workers, guessed from the same facts."""

import pytest

from consilium.engine.placement import BIND
from consilium.engine.warm_plan import NO_THREADS, RESERVED, THREADS, cpu_engine, preloaded, thread_environments

ONE = {"OMP_NUM_THREADS": "1", "OMP_PLACES": "{0}", "OMP_PROC_BIND": "true"}


@pytest.mark.parametrize(
    ("environment", "ranks", "cores", "nodes", "wanted"),
    [
        ({}, 1, (0, 1), 1, (ONE,)),
        ({BIND: "auto"}, 1, (0,), 1, (ONE,)),
        ({}, 1, (1, 3, 5), 1, ({"OMP_NUM_THREADS": "2", "OMP_PLACES": "{1,3}", "OMP_PROC_BIND": "true"},)),
        ({BIND: "0|1"}, 2, (0, 1), 1, (ONE, {**ONE, "OMP_PLACES": "{1}"})),
        ({BIND: "0-2,5"}, 1, (0, 1), 2, ({"OMP_NUM_THREADS": "4", "OMP_PLACES": "{0,1,2,5}", "OMP_PROC_BIND": "true"},)),
        ({BIND: "nobind"}, 2, (0, 1), 1, ({}, {})),
        ({}, 2, (0, 1), 1, ()),
        ({}, 1, (0, 1), 2, ()),
        ({RESERVED: "2"}, 1, (0, 1), 1, ()),
        ({BIND: "0"}, 2, (0, 1), 1, ()),
        ({BIND: "x"}, 1, (0, 1), 1, ()),
        ({"LD_PRELOAD": "/lib/libiomp5.so"}, 1, (0, 1), 1, ()),
        ({"LD_PRELOAD": "/lib/libgomp.so.1"}, 1, (0, 1, 2), 1, ({"OMP_NUM_THREADS": "2", "GOMP_CPU_AFFINITY": "0 1"},)),
    ],
)
def test_threads(environment: dict[str, str], ranks: int, cores: tuple[int, ...], nodes: int, wanted: tuple[dict[str, str], ...]) -> None:
    assert thread_environments(environment, ranks, cores, nodes) == wanted


def test_an_openmp_that_is_preloaded_already_stays_alone() -> None:
    assert preloaded("/lib/libiomp5.so:/lib/libtcmalloc.so.4") == "/lib/libiomp5.so:/lib/libtcmalloc.so.4"


def test_the_core_is_loaded_as_its_first_worker_which_is_forked_from_it() -> None:
    plan = cpu_engine({BIND: "0|1"}, 2)
    first, second = plan.then
    assert (first.forked, second.forked) == (True, False)
    assert plan.environment == {**first.environment, **NO_THREADS}
    assert first.environment["OMP_NUM_THREADS"] == "1"
    assert set(first.modules) <= set(plan.modules)
    assert plan.indifferent == THREADS
    assert second.environment != first.environment


def test_where_the_threads_are_not_known_nothing_is_forked() -> None:
    assert cpu_engine({}, 2).then == ()


def test_workers_whose_threads_are_not_bound_are_all_forked() -> None:
    assert [worker.forked for worker in cpu_engine({BIND: "nobind"}, 2).then] == [True, True]
