"""The arguments of one vLLM engine."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.unit.engine.made_up_models import facts

from consilium.engine import launch_args
from consilium.engine.config import EngineOverride, EngineSettings
from consilium.engine.parsers import Parsers
from consilium.kernel.errors import ConsiliumError
from consilium.planner.lora_settings import LoraSettings

GOLDEN = Path(__file__).parent / "engine_args_0.32.0.txt"
FIELDS = frozenset(GOLDEN.read_text().split())
QWEN = facts("qwen", heads=32, kv_heads=8, width=12288, parsers=Parsers("qwen3", "hermes"))


def build(
    settings=None,
    model=QWEN,
    *,
    device="gpu",
    tensor=1,
    pipeline=1,
    nodes=1,
    version="0.32.0",
    lora=None,
):
    settings = settings or EngineSettings()
    return launch_args.build(
        settings=settings,
        facts=model,
        device=device,
        tensor=tensor,
        pipeline=pipeline,
        nodes=nodes,
        version=version,
        key="engine",
        lora=lora,
    )


def test_golden_arguments_on_a_card():
    assert build() == {
        "model": "/models/qwen",
        "served_model_name": "qwen",
        "max_model_len": -1,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
        "gpu_memory_utilization": 0.9,
        "kv_cache_dtype": "auto",
        "dtype": "auto",
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "enforce_eager": False,
        "reasoning_parser": "qwen3",
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "trust_remote_code": False,
        "allowed_media_domains": ["remote-media-is-off.invalid"],
    }


def test_golden_arguments_on_cpu_across_nodes():
    settings = EngineSettings(
        max_model_len=4096,
        max_num_seqs=8,
        kv_cache_gib=0.5,
        hf_overrides={"num_experts_per_tok": 4},
        quantization="fp8",
    )
    assert build(settings, device="cpu", tensor=2, nodes=2) == {
        "model": "/models/qwen",
        "served_model_name": "qwen",
        "max_model_len": 4096,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 2048,
        "kv_cache_memory_bytes": 2**29,
        "kv_cache_dtype": "auto",
        "dtype": "auto",
        "quantization": "fp8",
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "enforce_eager": True,
        "hf_overrides": {"num_experts_per_tok": 4},
        "reasoning_parser": "qwen3",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "distributed_executor_backend": "mp",
        "nnodes": 2,
        "trust_remote_code": False,
        "allowed_media_domains": ["remote-media-is-off.invalid"],
    }


def test_without_lanes_who_comes_first_is_served_first():
    assert build(EngineSettings(priority_lanes=False))["scheduling_policy"] == "fcfs"


def test_rank_and_address_are_added_per_node():
    args = launch_args.on_node(
        build(tensor=2, nodes=2), rank=1, address="10.0.0.1", port=29500, version="0.32.0"
    )
    assert (args["nnodes"], args["node_rank"], args["master_addr"], args["master_port"]) == (
        2,
        1,
        "10.0.0.1",
        29500,
    )


@pytest.mark.parametrize("version", ["0.32.0", "0.33.1"])
def test_each_field_that_we_write_is_a_field_of_that_version(version):
    assert set(launch_args.table(version).values()) <= FIELDS


def test_the_golden_list_is_the_installed_one():
    source = launch_args.installed_source()
    if source is None:
        pytest.skip("vLLM is not installed")
    if launch_args.installed_version() != "0.32.0":
        pytest.skip("another vLLM is installed")
    assert launch_args.fields_of(source.read_text("utf-8")) == FIELDS


def test_reserved_names_are_fields_or_known_attributes_of_the_engine():
    assert {name for name in launch_args.RESERVED if name not in FIELDS} == set()


@pytest.mark.parametrize("version", ["0.24.0", "0.31.0", "1.0"])
def test_untested_versions_are_refused(version):
    with pytest.raises(ConsiliumError, match=r"0\.32, 0\.33") as caught:
        launch_args.table(version)
    assert caught.value.code == "config_invalid"
    assert ("another's adapter" in caught.value.public()) == (version == "0.24.0")


@pytest.mark.parametrize("name", sorted(launch_args.RESERVED))
def test_extra_args_may_not_touch_what_is_ours(name):
    with pytest.raises(ConsiliumError, match=f"engine.extra_args.{name}"):
        build(EngineSettings(extra_args={name: "x"}))


def test_extra_args_are_checked_against_the_installed_fields():
    args = build(EngineSettings(extra_args={"blok_size": 32}))
    with pytest.raises(ConsiliumError, match="'block_size'"):
        launch_args.check_fields(args, FIELDS, key="engine", version="0.32.0")
    launch_args.check_fields(
        build(EngineSettings(extra_args={"block_size": 32})), FIELDS, key="engine", version="0.32.0"
    )


def test_a_step_holds_at_least_one_token_per_request():
    assert build(EngineSettings(max_num_seqs=4096), device="cpu")["max_num_batched_tokens"] == 4096
    with pytest.raises(
        ConsiliumError, match=r"engine.max_num_batched_tokens: 16 is less than max_num_seqs \(64\)"
    ):
        build(EngineSettings(max_num_batched_tokens=16))


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (QWEN, EngineSettings(), ("qwen3", "hermes")),
        (
            facts("Qwen3-Coder", "qwen3_moe", parsers=Parsers(None, "qwen3_coder")),
            EngineSettings(),
            (None, "qwen3_coder"),
        ),
        (
            facts("Qwen2.5", "qwen2", parsers=Parsers(None, "hermes")),
            EngineSettings(),
            (None, "hermes"),
        ),
        (
            facts("R1", "llama", parsers=Parsers("deepseek_r1")),
            EngineSettings(),
            ("deepseek_r1", None),
        ),
        (
            facts("Qwen3-8B-Base", parsers=Parsers("qwen3", "hermes")),
            EngineSettings(),
            (None, "hermes"),
        ),
        (
            facts("b", has_template=False),
            EngineSettings(reasoning_parser="x"),
            ("x", None),
        ),
        (QWEN, EngineSettings(reasoning_parser="none", tool_parser="none"), (None, None)),
        (
            QWEN,
            EngineSettings(reasoning_parser="deepseek_r1", tool_parser="mistral"),
            ("deepseek_r1", "mistral"),
        ),
    ],
)
def test_parsers_follow_the_template_and_the_owner(model, settings, expected):
    found = launch_args.parsers(settings, model)
    assert (found.reasoning, found.tools) == expected


def test_a_parser_that_the_version_lacks_is_refused_with_the_nearest_name():
    names = launch_args.ParserNames(frozenset({"hermes", "mistral"}), frozenset({"qwen3"}))
    check = partial(launch_args.check_parsers, names=names, key="engine", version="0.32.0")
    for fine in (EngineSettings(), EngineSettings(tool_parser="none", reasoning_parser="qwen3")):
        check(fine)
    with pytest.raises(ConsiliumError, match=r"engine\.tool_parser: .*'hermez'.*'hermes'"):
        check(EngineSettings(tool_parser="hermez"))
    with pytest.raises(ConsiliumError, match=r"engine\.reasoning_parser: .*'qwen'.*'qwen3'"):
        check(EngineSettings(reasoning_parser="qwen"))


def test_environment_is_quiet_offline_and_closed():
    env = launch_args.environment(EngineSettings(env={"NCCL_P2P_DISABLE": "1"}), key="engine")
    assert env == {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "NCCL_P2P_DISABLE": "1",
    }
    for name in launch_args.FORBIDDEN_ENV:
        with pytest.raises(ConsiliumError, match=name):
            launch_args.environment(EngineSettings(env={name: "1"}), key="engine")


def test_an_override_changes_single_keys():
    merged = EngineOverride(max_num_seqs=4, enforce_eager=True).over(
        EngineSettings(max_model_len=512)
    )
    assert (merged.max_num_seqs, merged.enforce_eager, merged.max_model_len) == (4, True, 512)


def test_slots_for_adapters():
    args = build(lora=LoraSettings(6, 64, 32))
    assert {key: args[key] for key in args if "lora" in key} == {
        "enable_lora": True,
        "max_loras": 6,
        "max_lora_rank": 64,
        "max_cpu_loras": 32,
    }
    narrow = build(lora=LoraSettings(4, 16, 8, ("q_proj",)))
    assert narrow["lora_target_modules"] == ["q_proj"]
    assert set(narrow) <= FIELDS


def test_no_slots_for_a_mixture_of_experts_on_processors():
    """Seen with vLLM 0.32: the core of the engine dies at the first token, also of a call without an adapter."""
    experts = replace(QWEN, shape=replace(QWEN.shape, experts=8, expert_width=64))
    with pytest.raises(ConsiliumError) as error:
        build(model=experts, device="cpu", lora=LoraSettings(4))
    assert error.value.fields["key"] == "engine.lora"
    assert "mixture of experts" in error.value.fields["reason"]
    assert "adapters.NAME.executors, or set engine.lora.slots to 0" in error.value.fields["reason"]
    assert build(model=experts, lora=LoraSettings(4))["max_loras"] == 4
    assert "max_loras" not in build(model=experts, device="cpu")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("enable_lora", "engine.lora"),
        ("max_loras", "engine.lora.slots"),
        ("max_lora_rank", "engine.lora.max_rank"),
        ("max_cpu_loras", "engine.lora.ram"),
        ("lora_target_modules", "engine.lora.target_modules"),
    ],
)
def test_slots_have_one_spelling(name, key):
    with pytest.raises(ConsiliumError) as error:
        build(EngineSettings(extra_args={name: 4}))
    assert error.value.fields["key"] == f"engine.extra_args.{name}"
    assert error.value.fields["reason"].endswith(f"use {key}")
