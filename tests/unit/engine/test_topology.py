"""From the configuration to deployments."""

from dataclasses import replace

import pytest
from tests.unit.engine.made_up_models import facts

from consilium.engine import topology
from consilium.engine.config import EngineSettings, EngineView
from consilium.engine.machine import Gpu, Machine, Node
from consilium.kernel.errors import ConsiliumError

GIB = 2**30
CARD = Gpu("RTX PRO 6000", 96 * GIB)
TINY = facts("tiny", revision="r1", weight_bytes=10**6)
Q30 = facts(
    "q30",
    "qwen3_moe",
    layers=48,
    heads=32,
    kv_heads=4,
    width=768,
    experts=128,
    weight_bytes=57 * GIB,
)
Q14 = facts("q14", layers=40, heads=40, kv_heads=8, width=17408, weight_bytes=28 * GIB)
DEMO = facts("demo", "qwen2", layers=30, heads=9, kv_heads=3, width=1536, weight_bytes=270 * 10**6)
MODELS = {"tiny": TINY, "q30": Q30, "q14": Q14, "demo": DEMO}

LAPTOP = Machine(nodes=(Node(cpus=2, cores=(0, 1), memory_bytes=24 * GIB),))
SERVER = Machine(nodes=(Node(cpus=16, cores=tuple(range(16)), memory_bytes=256 * GIB),))
LOGICAL = replace(LAPTOP, nodes=(replace(LAPTOP.nodes[0], gpus=(Gpu(), Gpu())),), logical_gpus=True)


def box(*cards_per_node, builds=(("gpu", ""),)):
    nodes = tuple(
        Node(
            address=f"10.0.0.{i}",
            gpus=(CARD,) * n,
            cpus=32,
            cores=tuple(range(32)),
            memory_bytes=512 * GIB,
        )
        for i, n in enumerate(cards_per_node)
    )
    return Machine(nodes=nodes, builds=builds)


def plan(machine, *, model="tiny", executors=None, engine=None, **shape):
    view = EngineView.model_validate(
        {"model": model, "topology": shape, "executors": executors or {}, "engine": engine or {}}
    )
    return topology.plan(view, machine, MODELS)


def refused(machine, **config):
    with pytest.raises(ConsiliumError) as caught:
        plan(machine, **config)
    return caught.value


def test_demo_on_a_laptop():
    (core,) = plan(LAPTOP, model="demo")
    assert (core.name, core.device, core.replicas, core.bundles, core.strategy) == (
        "core",
        "cpu",
        1,
        ({"CPU": 1.0},),
        "PACK",
    )
    assert core.cpu_lists == ()
    assert "VLLM_CPU_OMP_THREADS_BIND" not in core.env
    assert core.max_ongoing_requests > core.max_num_seqs == 64
    assert core.launch_args["kv_cache_memory_bytes"] == GIB
    assert core.launch_args["enforce_eager"] is True


def test_replicas_pin_one_model_per_gpu():
    (core,) = plan(box(4), model="q30")
    assert (core.replicas, core.device, core.bundles) == (4, "gpu", ({"CPU": 1.0, "GPU": 1.0},))
    assert core.cpu_lists == ()


def test_replicas_over_nodes_count_all_cards():
    assert plan(box(2, 1), model="q30")[0].replicas == 3


def test_replicas_on_cpu_pin_one_model_per_group_of_cores():
    (core,) = plan(SERVER, engine={"cpu_cores": 4})
    assert core.replicas == 4
    assert core.cpu_lists == ("0,1,2,3", "4,5,6,7", "8,9,10,11", "12,13,14,15")
    (two,) = plan(SERVER, replicas=2)
    assert two.cpu_lists == ("0,1,2,3,4,5,6", "7,8,9,10,11,12,13")


def test_two_replicas_on_two_logical_gpus_run_on_cpu():
    (core,) = plan(LOGICAL)
    assert (core.replicas, core.device) == (2, "cpu")
    assert core.bundles == ({"CPU": 0.5, "GPU": 1.0},)
    assert core.cpu_lists == ("0", "1")
    assert "gpu_memory_utilization" not in core.launch_args


def test_sharded_in_a_node():
    (core,) = plan(box(4), model="q30", kind="sharded", tensor_parallel=4)
    assert (core.replicas, core.bundles, core.strategy) == (1, ({"CPU": 4.0, "GPU": 4.0},), "PACK")
    assert core.launch_args["tensor_parallel_size"] == 4
    assert core.launch_args["distributed_executor_backend"] == "mp"
    assert "nnodes" not in core.launch_args


def test_sharded_across_nodes():
    (core,) = plan(
        box(2, 2), model="q30", kind="sharded", tensor_parallel=2, pipeline_parallel=2, nodes=2
    )
    assert core.strategy == "STRICT_SPREAD"
    assert [bundle["GPU"] for bundle in core.bundles] == [2.0, 2.0]
    assert core.launch_args["nnodes"] == 2
    assert core.notes == ()
    (across,) = plan(box(2, 2), model="q30", kind="sharded", tensor_parallel=4, nodes=2)
    assert "pipeline_parallel between nodes" in across.notes[0]


def test_sharded_on_cpu():
    (core,) = plan(LAPTOP, kind="sharded", tensor_parallel=2)
    assert core.cpu_lists == ("0|1",)
    assert core.bundles == ({"CPU": 1.0},)


def test_an_engine_that_its_owner_has_bound_stays_so():
    (core,) = plan(
        SERVER,
        kind="sharded",
        tensor_parallel=2,
        engine={"env": {"VLLM_CPU_OMP_THREADS_BIND": "0-3|8-11"}},
    )
    assert core.cpu_lists == ()
    assert core.env["VLLM_CPU_OMP_THREADS_BIND"] == "0-3|8-11"


def test_sharded_over_cpu_nodes_counts_cores():
    machine = Machine(nodes=(Node(address="a", cpus=8), Node(address="b", cpus=4)))
    (core,) = plan(machine, kind="sharded", tensor_parallel=2, nodes=2)
    assert core.cpu_lists == ()
    assert (core.env["VLLM_CPU_OMP_THREADS_BIND"], core.env["OMP_NUM_THREADS"]) == ("nobind", "4")


def test_hybrid_core_and_executors():
    executors = {
        "coder": {"model": "q14", "device": "gpu", "fallback": "core"},
        "hands": {"model": "q30", "tensor_parallel": 2},
        "clerk": {"model": "tiny", "device": "cpu", "engine": {"max_num_seqs": 4}},
        "cloud": {"kind": "remote", "url": "http://x/v1", "model": "big"},
    }
    builds = (("cpu", "/opt/cpu/bin/python"), ("gpu", ""))
    specs = {
        spec.name: spec
        for spec in plan(box(4, builds=builds), model="q14", executors=executors, kind="hybrid")
    }
    assert set(specs) == {"core", "coder", "hands", "clerk"}
    assert specs["hands"].bundles == ({"CPU": 2.0, "GPU": 2.0},)
    assert specs["core"].replicas == specs["coder"].replicas == 1
    assert specs["coder"].fallback == "core"
    assert (specs["clerk"].device, specs["clerk"].bundles) == ("cpu", ({"CPU": 1.0},))
    assert specs["clerk"].max_num_seqs == 4
    assert (specs["clerk"].python, specs["core"].python) == ("/opt/cpu/bin/python", "")


def test_the_largest_is_deployed_first():
    executors = {"small": {"model": "tiny"}, "large": {"model": "q30", "tensor_parallel": 2}}
    assert [spec.name for spec in plan(box(4), executors=executors, kind="hybrid")] == [
        "large",
        "core",
        "small",
    ]


def test_hybrid_on_two_cores_shares_them():
    specs = {
        spec.name: spec
        for spec in plan(
            LAPTOP, executors={"side": {"model": "tiny"}}, kind="hybrid", tensor_parallel=2
        )
    }
    assert specs["core"].cpu_lists == ("0|1",)
    assert specs["side"].cpu_lists == ("0",)
    assert specs["core"].bundles == specs["side"].bundles == ({"CPU": 0.5},)


def test_executors_with_fixed_cores_are_served_first():
    specs = {
        s.name: s
        for s in plan(
            SERVER, executors={"side": {"model": "tiny", "engine": {"cpu_cores": 4}}}, kind="hybrid"
        )
    }
    assert specs["side"].cpu_lists == ("0,1,2,3",)
    assert specs["core"].cpu_lists == ("4,5,6,7,8,9,10,11,12,13,14",)


def test_heads_that_cannot_be_shared_name_the_sizes_that_work():
    error = refused(box(4), model="demo", kind="sharded", tensor_parallel=2)
    assert error.code == "config_invalid"
    assert error.public() == (
        "topology.tensor_parallel: tensor parallel 2 does not divide the 9 attention heads. Values that work: 1, 3"
    )
    assert topology.sharding.working_tps(Q14, EngineSettings()) == (1, 2, 4, 8)


def test_on_cores_each_of_several_nodes_takes_one_rank():
    machine = Machine(nodes=(Node(address="a", cpus=8), Node(address="b", cpus=8)))
    error = refused(machine, kind="sharded", tensor_parallel=2, pipeline_parallel=2, nodes=2)
    assert error.public().startswith("topology.nodes: on cores vLLM puts one rank")
    for nodes in (2, 3):
        assert (
            refused(machine, kind="sharded", tensor_parallel=2, pipeline_parallel=2, nodes=nodes)
            .public()
            .endswith("Values that work: 1, 4")
        )
    assert (
        "set nodes: 1"
        in refused(
            machine, kind="sharded", tensor_parallel=2, pipeline_parallel=2, nodes=4
        ).public()
    )
    assert plan(machine, kind="sharded", tensor_parallel=2, pipeline_parallel=2)[0].nodes == 1


def test_nodes_must_divide_the_ranks():
    error = refused(box(4, 4), model="q30", kind="sharded", tensor_parallel=4, nodes=3)
    assert error.public().startswith("topology.nodes: 3 nodes cannot share 4 ranks")
    assert error.public().endswith("Values that work: 1, 2, 4")


def test_more_stages_than_layers():
    assert (
        "topology.pipeline_parallel: tiny has 2 layers"
        in refused(box(4), kind="sharded", pipeline_parallel=4).public()
    )


def test_more_nodes_than_there_are():
    assert (
        "the cluster has 1" in refused(box(2), kind="sharded", tensor_parallel=2, nodes=2).public()
    )


@pytest.mark.parametrize(
    "config",
    [
        {"replicas": 3},
        {"kind": "sharded", "tensor_parallel": 4, "model": "q30"},
        {"kind": "hybrid", "replicas": 2, "executors": {"side": {"model": "tiny"}}},
    ],
)
def test_more_cards_than_there_are(config):
    error = refused(box(2), **config)
    assert error.code == "gpu_missing"
    assert "2 were seen" in error.public()


def test_gpu_asked_for_on_a_machine_without_one():
    error = refused(LAPTOP, device="gpu")
    assert (error.code, error.public()) == (
        "gpu_missing",
        "topology.device asks for 1 GPU(s), and 0 were seen.",
    )


def test_cards_that_do_not_stand_together():
    error = refused(box(1, 1), model="tiny", kind="sharded", tensor_parallel=2)
    assert "enough cards, but not together" in error.public()
    assert "the nodes have 1, 1" in error.public()


def test_weights_larger_than_the_card_name_the_size_that_works():
    small = Machine(
        nodes=(Node(gpus=(Gpu("4090", 24 * GIB),) * 4, cpus=16),), builds=(("gpu", ""),)
    )
    error = refused(small, model="q30")
    assert error.code == "does_not_fit"
    assert "57.0 GiB of weights per card" in error.public()
    assert "Set tensor_parallel to 4 or more" in error.public()
    assert plan(small, model="q30", kind="sharded", tensor_parallel=4)


def test_weights_larger_than_the_memory():
    assert "the largest node has 24.0 GiB of memory" in refused(LAPTOP, model="q30").public()


def test_the_build_must_be_there():
    assert "CPU build" in refused(box(2), device="cpu").public()
    assert "no vLLM is installed" in refused(replace(LAPTOP, builds=())).public()
    assert "CPU build only" in refused(replace(box(2), builds=(("cpu", ""),))).public()


def test_a_model_without_facts():
    assert refused(LAPTOP, model="nothing").code == "model_missing"


def test_an_executor_is_remote_when_it_has_a_url():
    view = EngineView.model_validate(
        {"executors": {"cloud": {"url": "http://x/v1", "model": "big"}}}
    )
    assert view.executors["cloud"].kind == "remote"
    with pytest.raises(ValueError, match="kind"):
        EngineView.model_validate({"executors": {"odd": {"kind": "ghost", "model": "big"}}})


def test_extra_args_are_checked_where_they_stand():
    view = EngineView.model_validate(
        {
            "model": "tiny",
            "topology": {"kind": "hybrid"},
            "executors": {"side": {"model": "tiny", "engine": {"extra_args": {"blok_size": 1}}}},
        }
    )
    assert len(topology.plan(view, LAPTOP, MODELS)) == 2
    with pytest.raises(
        ConsiliumError, match=r"executors\.side\.engine\.extra_args\.blok_size"
    ) as caught:
        topology.plan(
            view,
            LAPTOP,
            MODELS,
            fields=frozenset(["block_size", *topology.plan(view, LAPTOP, MODELS)[0].launch_args])
            - {"blok_size"},
        )
    assert "'block_size'" in caught.value.public()


def test_a_gpu_build_that_sees_no_gpu_says_so():
    error = refused(replace(LAPTOP, builds=(("gpu", ""),)))
    assert (error.code, error.public()) == (
        "gpu_missing",
        "topology.device asks for 1 GPU(s), and 0 were seen.",
    )


def test_a_step_on_cores_is_short_enough_for_those_who_wait():
    (small,) = plan(LAPTOP, model="demo")
    (large,) = plan(SERVER, model="demo")
    tokens, beside = (
        small.launch_args[name]
        for name in ("max_num_batched_tokens", "long_prefill_token_threshold")
    )
    assert 64 <= tokens < 512
    assert 16 <= beside < tokens
    assert 0 < small.step_s <= 0.6
    assert large.launch_args["max_num_batched_tokens"] > tokens
    assert large.step_s <= 0.6
    two = plan(
        SERVER,
        model="demo",
        executors={"other": {"model": "demo", "device": "cpu"}},
        kind="hybrid",
    )
    assert (
        two[0].launch_args["max_num_batched_tokens"] < (large.launch_args["max_num_batched_tokens"])
    )


def test_what_the_owner_says_of_steps_wins_and_its_time_is_told():
    (core,) = plan(LAPTOP, model="demo", engine={"max_num_batched_tokens": 2048})
    assert core.launch_args["max_num_batched_tokens"] == 2048
    assert "long_prefill_token_threshold" not in core.launch_args
    assert core.step_s > 2
    (mine,) = plan(
        LAPTOP, model="demo", engine={"extra_args": {"long_prefill_token_threshold": 99}}
    )
    assert mine.launch_args["long_prefill_token_threshold"] == 99


@pytest.mark.parametrize(
    "engine",
    [
        {"extra_args": {"runner": "pooling"}},
        {"extra_args": {"convert": "embed"}},
        {"extra_args": {"enable_chunked_prefill": False}},
    ],
)
def test_what_cannot_be_cut_is_read_whole(engine):
    """vLLM refuses steps that are shorter than the context of a model that looks both ways, and would cut its prompts beside others."""
    (core,) = plan(LAPTOP, model="demo", engine=engine)
    assert core.launch_args["max_num_batched_tokens"] == 2048
    assert "long_prefill_token_threshold" not in core.launch_args
    assert core.step_s == 0.0


def test_a_card_reads_as_it_did():
    (core,) = plan(box(1), model="q14")
    assert core.launch_args["max_num_batched_tokens"] == 8192
    assert "long_prefill_token_threshold" not in core.launch_args
    assert core.step_s == 0.0
