"""Pools of nodes: an engine stays in the one that its owner names, or that alone has what it needs."""

from dataclasses import replace

import pytest

from consilium.engine import machine, placement, pools, topology
from consilium.engine.backends import cluster_nodes
from consilium.engine.config import EngineView, Shape
from consilium.engine.machine import Gpu, Machine, Node
from consilium.kernel.errors import ConsiliumError

GIB = 2**30
CARD = Gpu("NVIDIA GeForce RTX 4090", 24 * GIB)
CPU_NODE = Machine(nodes=(Node(cpus=8, cores=tuple(range(8))),), builds=(("cpu", ""),))
GPU_NODE = Machine(nodes=(Node(cpus=16, gpus=(CARD, CARD)),), builds=(("gpu", ""),))


def row(address, **resources):
    return {"Alive": True, "NodeManagerAddress": address, "Resources": resources}


MIXED_ROWS = [
    row("10.0.0.1", CPU=0.0),
    row("10.0.0.2", CPU=16.0, GPU=2.0, consilium_pool_big=1.0),
    row("10.0.0.3", CPU=8.0, consilium_pool_cores=1.0),
]
MIXED = machine.from_ray(MIXED_ROWS, CPU_NODE, {"10.0.0.2": GPU_NODE, "10.0.0.3": CPU_NODE})


def test_a_head_without_the_gpu_build_makes_no_card_logical():
    assert not MIXED.logical_gpus
    assert [node.pools for node in MIXED.nodes] == [{"big"}, {"cores"}], "the head only leads"
    assert MIXED.nodes[0].gpus[0].name == "NVIDIA GeForce RTX 4090"
    assert MIXED.interpreter("gpu") == MIXED.interpreter("cpu") == ""


def test_a_head_alone_is_still_a_node():
    assert len(machine.from_ray([row("10.0.0.1", CPU=0.0)], CPU_NODE).nodes) == 1


def test_an_engine_on_cores_goes_where_the_cpu_build_is():
    pool = pools.pool_of(Shape(device="cpu"), MIXED, device="cpu", takes_gpu=False, key="topology")
    assert pool == "cores"
    assert pools.pool_of(Shape(), MIXED, device="gpu", takes_gpu=True, key="topology") == ""


@pytest.mark.parametrize(
    ("pool", "said"), [("bug", "there is no pool 'bug'"), ("cores", "have no vLLM for gpu")]
)
def test_a_pool_that_cannot_do_it_is_refused(pool, said):
    with pytest.raises(ConsiliumError, match=said) as refused:
        pools.pool_of(Shape(pool=pool), MIXED, device="gpu", takes_gpu=True, key="executors.a")
    assert refused.value.fields["key"] == "executors.a.pool"


def test_cards_are_counted_in_the_pool():
    two = replace(
        MIXED,
        nodes=(
            replace(MIXED.nodes[0], pools=frozenset({"a"})),
            replace(MIXED.nodes[0], pools=frozenset({"b"}), gpus=(CARD,)),
        ),
    )
    want = placement.Want("x", 1, 1, 2, pools.indices(two, "b"))
    assert placement.unplaced([2, 1], [want]) == want
    assert placement.unplaced([2, 1], [replace(want, among=pools.indices(two, "a"))]) is None
    view = EngineView.model_validate({"topology": {"kind": "replicas", "pool": "a"}})
    assert topology._replicas(
        view.topology, view.engine, pools.inside(two, "a"), one_per_gpu=True, takes_gpu=True
    ) == 2  # fmt: skip


def test_it_waits_until_the_nodes_are_there():
    seen = iter([[], MIXED_ROWS[:1], MIXED_ROWS[:2], MIXED_ROWS])
    assert cluster_nodes.wait_for(2, 2, lambda: next(seen), pause=lambda _s: None) == MIXED_ROWS[1:]
