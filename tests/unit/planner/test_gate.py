"""The check before an engine starts."""

from __future__ import annotations

import json

import pytest

from consilium.planner import models, rope
from consilium.planner.figures import GIB
from consilium.planner.gate import gate

EIGHT = models.by_name("Qwen3-8B").config
MOE = models.by_name("Qwen3-30B-A3B").config


def test_what_fits_passes():
    told = gate(EIGHT, {"max_model_len": 32_768, "max_num_seqs": 64}, cards=["RTX PRO 6000 96GB"])
    assert (told.verdict, told.knob, told.context) == ("fits", "", 32_768)


def test_what_cannot_fit_is_refused_with_a_knob_that_works():
    stretched = rope.reach(models.by_name("Qwen3-32B").shape, 131_072).overrides
    engine = {"max_model_len": 131_072, "max_num_seqs": 64, "hf_overrides": stretched}
    told = gate(models.by_name("Qwen3-32B").config, engine, cards=["RTX PRO 6000 96GB"])
    assert told.verdict == "no"
    assert "GiB are missing" in told.sentence
    assert (told.knob, told.value) == ("engine.kv_cache_dtype", "fp8")
    assert (
        gate(
            models.by_name("Qwen3-32B").config,
            {**engine, "kv_cache_dtype": "fp8"},
            cards=["RTX PRO 6000 96GB"],
        ).verdict
        == "fits"
    )


def test_a_context_that_the_file_does_not_allow_is_refused_with_the_way_to_it():
    """vLLM's engine would end with it, after minutes of loading."""
    told = gate(models.by_name("demo").config, {"max_model_len": 32_768}, ram_bytes=64 * GIB)
    assert (told.verdict, told.knob, told.value) == ("no", "engine.max_model_len", "8192")
    assert "allows 8192" in told.sentence
    assert (
        gate(models.by_name("demo").config, {"max_model_len": 8192}, ram_bytes=64 * GIB).verdict
        == "fits"
    )
    longer = {"max_model_len": 32_768, "env": {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}}
    assert gate(models.by_name("demo").config, longer, ram_bytes=64 * GIB).verdict == "fits"
    told = gate(EIGHT, {"max_model_len": 131_072}, cards=["RTX PRO 6000 96GB"])
    assert told.verdict == "no"
    overrides = json.loads(told.sentence[told.sentence.index("{") :].removesuffix("."))
    assert (
        gate(
            EIGHT,
            {"max_model_len": 131_072, "hf_overrides": overrides},
            cards=["RTX PRO 6000 96GB"],
        ).verdict
        == "fits"
    )


def test_little_to_spare_is_tight():
    assert gate(EIGHT, {"max_model_len": 32_768}, cards=["RTX 4090"]).verdict == "tight"


def test_without_a_length_the_longest_that_fits_is_told():
    told = gate(EIGHT, {}, cards=[19.0])
    assert told.verdict == "tight"
    assert told.knob == "engine.max_model_len"
    assert 1024 <= told.context < 40_960
    assert gate(EIGHT, {"max_model_len": told.context}, cards=[19.0]).verdict != "no"


def test_a_cpu_engine_is_judged_by_ram_and_its_kv():
    assert (
        gate(models.by_name("demo").config, {"max_num_seqs": 64}, ram_bytes=8 * GIB).verdict
        == "fits"
    )
    told = gate(EIGHT, {"max_model_len": 32_768, "kv_cache_gib": 1}, ram_bytes=64 * GIB)
    assert (told.verdict, told.knob, told.value) == ("no", "engine.kv_cache_gib", "5")
    assert gate(EIGHT, {"max_model_len": 1024}, ram_bytes=12 * GIB).verdict == "no"


def test_breaking_overrides_are_refused_before_anything_else():
    told = gate(EIGHT, {"hf_overrides": {"hidden_size": 2048}}, cards=["H200"])
    assert told.verdict == "no"
    assert "hidden_size" in told.sentence
    assert told.knob == "engine.hf_overrides"


def test_legal_overrides_pass():
    assert (
        gate(
            MOE,
            {"max_model_len": 8192, "hf_overrides": {"num_experts_per_tok": 16}},
            cards=["H200"],
        ).verdict
        == "fits"
    )


def test_slots_count():
    engine = {"max_model_len": 8192, "lora": {"slots": 24, "max_rank": 16}}
    told = gate(MOE, engine, cards=["RTX PRO 6000 96GB"])
    assert told.verdict == "no"
    assert told.knob in {"engine.lora.slots", "engine.lora.target_modules"}
    narrow = {**engine, "lora": {**engine["lora"], "target_modules": ["q_proj", "o_proj"]}}
    assert gate(MOE, narrow, cards=["RTX PRO 6000 96GB"]).verdict == "fits"


def test_impossible_cuts_and_missing_cards_are_sentences():
    assert (
        "8 attention heads" in gate(EIGHT, {}, cards=["H100"] * 3, tensor_parallel=3).sentence
        or "32 attention heads" in gate(EIGHT, {}, cards=["H100"] * 3, tensor_parallel=3).sentence
    )
    assert "2 cards" in gate(EIGHT, {}, cards=["H100"], tensor_parallel=2).sentence


def test_a_folder_is_read_with_the_size_of_its_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(EIGHT)))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 1000)
    told = gate(tmp_path, {"max_model_len": 4096}, cards=["H100"])
    assert told.verdict == "fits"
    assert told.plan.ask.weights_bytes == 1000


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": "x"},
        {"_diffusers_version": "0.30"},
        {"is_encoder_decoder": True, "hidden_size": 8},
    ],
)
def test_what_is_no_language_model_is_a_no_with_a_sentence(config):
    told = gate(config, {}, cards=["H100"])
    assert told.verdict == "no"
    assert 10 < len(told.sentence) < 300


METHODS = [
    "awq",
    "gptq_marlin",
    "compressed-tensors",
    "quark",
    "inc",
    "torchao",
    "modelopt",
    "modelopt_fp4",
    "modelopt_mixed",
    "experts_int8",
    "moe_wna16",
]


@pytest.mark.parametrize(
    "method",
    [
        *METHODS,
        "fp8",
        "fp8_per_block",
        "mxfp8",
        "online",
        "humming",
        "auto_gptq",
        "int8_per_channel_weight_only",
    ],
)
def test_every_method_of_the_engine_may_start(method):
    config = models.by_name("Qwen3-8B").config
    assert (
        gate(config, {"quantization": method, "max_model_len": 4096}, cards=["RTX 4090"]).verdict
        == "fits"
    )


def test_a_quantised_file_stays_what_it_says():
    config = {
        **models.by_name("Qwen3-8B").config,
        "quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    }
    found = gate(config, {"quantization": "modelopt", "max_model_len": 4096}, cards=["RTX 5090"])
    assert found.plan is not None
    assert found.plan.ask.weights == "nvfp4"
    assert gate(config, {"quantization": "agw"}, cards=["RTX 5090"]).sentence.startswith(
        "weights: 'agw' is no known format"
    )


@pytest.mark.parametrize("key", ["cpu_offload_gb", "kv_offloading_size", "kv_cache_memory_bytes"])
@pytest.mark.parametrize("value", ["x", [], -1, True, float("nan"), 10**30])
def test_an_odd_extra_argument_is_a_sentence(key, value):
    found = gate(
        models.by_name("Qwen3-8B").config, {"extra_args": {key: value}}, cards=["RTX 4090"]
    )
    assert (found.verdict, found.sentence.partition(":")[0]) == ("no", f"extra_args.{key}")


@pytest.mark.parametrize("key", ["slots", "max_rank", "ram"])
@pytest.mark.parametrize("value", ["x", [], -1, True, float("nan"), 10**30])
def test_an_odd_number_of_slots_is_a_sentence(key, value):
    found = gate(models.by_name("Qwen3-8B").config, {"lora": {key: value}}, cards=["RTX 4090"])
    assert (found.verdict, found.sentence.partition(":")[0]) == ("no", f"engine.lora.{key}")


@pytest.mark.parametrize(
    "extra",
    [
        {"model_type": "deepseek_v3", "kv_lora_rank": 512},
        {"model_type": "mamba2", "num_attention_heads": None},
    ],
)
def test_a_kind_of_model_that_the_planner_does_not_know_is_no_reason_to_refuse(extra):
    config = {
        "hidden_size": 768,
        "num_hidden_layers": 4,
        "num_attention_heads": 12,
        "vocab_size": 1000,
        **extra,
    }
    found = gate(config, {}, cards=["RTX 4090"])
    assert (found.verdict, found.plan) == ("tight", None)
    assert "started without a forecast" in found.sentence
    assert (
        gate(
            {"_class_name": "FluxPipeline", "_diffusers_version": "1"}, {}, cards=["RTX 4090"]
        ).verdict
        == "no"
    )
