"""What the machines have."""

import pytest

from consilium.engine import machine
from consilium.engine.machine import Gpu, Machine, Node

CPU_ONLY = Machine(nodes=(Node(cores=(0, 1), cpus=2),))
WITH_CARDS = Machine(
    nodes=(Node(gpus=(Gpu("RTX 4090", 24 * 2**30),) * 2, cpus=16, cores=tuple(range(16))),),
    builds=(("gpu", ""),),
)


def row(address="10.0.0.1", *, alive=True, **resources):
    return {"Alive": alive, "NodeManagerAddress": address, "Resources": resources}


def test_the_cluster_is_what_ray_says():
    rows = [
        row(CPU=16.0, GPU=2.0),
        row("10.0.0.2", CPU=8.0, GPU=1.0),
        row("10.0.0.3", alive=False, GPU=8.0),
    ]
    seen = machine.from_ray(rows, WITH_CARDS)
    assert [len(node.gpus) for node in seen.nodes] == [2, 1]
    assert seen.gpu_count == 3
    assert not seen.logical_gpus
    assert seen.nodes[0].cores == (), "with several nodes the ids of cores are not known"


def test_one_node_keeps_its_core_ids():
    assert machine.from_ray([row(CPU=2.0)], CPU_ONLY).nodes[0].cores == (0, 1)


def test_gpus_are_logical_where_no_engine_could_use_them():
    seen = machine.from_ray([row(CPU=2.0, GPU=2.0)], CPU_ONLY)
    assert seen.logical_gpus
    assert seen.gpu_count == 2
    assert not machine.from_ray([row(CPU=2.0)], CPU_ONLY).logical_gpus


def test_a_second_environment_is_another_build():
    both = Machine(builds=(("cpu", "/opt/cpu/bin/python"), ("gpu", "")))
    assert both.interpreter("cpu") == "/opt/cpu/bin/python"
    assert both.interpreter("gpu") == ""
    assert CPU_ONLY.interpreter("gpu") is None


def test_hyper_threads_count_once_and_numa_nodes_stay_together(tmp_path):
    numa_of = {0: 0, 1: 1, 2: 0, 3: 1}
    for cpu in range(8):
        core = cpu % 4
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(
            f"{core},{core + 4}\n"
        )
        (tmp_path / f"cpu{cpu}" / f"node{numa_of[core]}").mkdir()
    assert machine.physical_cores(range(8), tmp_path) == (0, 2, 1, 3)
    assert machine.physical_cores((5, 6), tmp_path) == (6, 5)
    assert machine.physical_cores((0, 1), tmp_path / "nothing") == (0, 1)


def test_cpu_lists():
    assert machine.parse_cpu_list("0-3,8") == (0, 1, 2, 3, 8)
    with pytest.raises(ValueError, match="not a CPU list"):
        machine.parse_cpu_list("all")


def test_this_machine_has_cores_and_memory():
    node = machine.local().nodes[0]
    assert node.cores
    assert node.cpus == len(node.cores)
    assert node.memory_bytes > 2**30


def test_the_second_environment_lies_beside_this_one(tmp_path):
    assert machine._second_environment(tmp_path / ".venv") is None
    python = tmp_path / machine.CPU_ENVIRONMENT / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert machine._second_environment(tmp_path / ".venv") == str(python)
