"""Boot logs of several vLLM versions. The CPU log is our own engine's; the GPU logs carry published values in the line formats of their versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.planner import calibrate, kv, models, verdict
from consilium.planner.ask import Ask
from consilium.planner.cards import card
from consilium.planner.figures import GIB

LOGS = Path(__file__).parent / "logs"


def boot(name):
    return calibrate.read_file(LOGS / name)


def test_our_cpu_engine():
    seen = boot("vllm_cpu_0_32.log")
    assert (
        seen.version,
        seen.on_cpu,
        seen.kv_gib,
        seen.kv_tokens,
        seen.max_model_len,
        seen.concurrency,
    ) == ("0.32.0", True, 0.25, 524_288, 2048, 256.0)
    tiny = models.by_name("tiny").shape
    assert seen.token_bytes() == 512.0 == kv.token_bytes(tiny, "bf16")
    assert kv.room(tiny, "bf16", seen.kv_gib * GIB, seen.max_model_len).tokens == seen.kv_tokens


def test_gpu_0_32():
    seen = boot("vllm_gpu_0_32.log")
    assert (
        seen.model,
        seen.weights_gib,
        seen.kv_gib,
        seen.kv_tokens,
        seen.graphs_gib,
        seen.activation_gib,
        seen.total_gib,
    ) == (
        "meta-llama/Llama-3.1-8B-Instruct",
        15.0,
        56.21,
        460_496,
        0.23,
        1.44,
        79.25,
    )
    assert seen.overhead_gib() == pytest.approx(1.70, abs=0.01)


def test_gpu_0_11_takes_the_poorest_rank():
    seen = boot("vllm_gpu_0_11.log")
    assert (seen.tensor_parallel, seen.kv_gib, seen.weights_gib, seen.concurrency) == (
        2,
        34.49,
        30.5926,
        17.66,
    )
    assert seen.token_bytes() == pytest.approx(
        kv.token_bytes(models.by_name("Qwen3-32B").shape, "bf16", 2), rel=0.003
    )


def test_gpu_0_7_counts_blocks():
    seen = boot("vllm_gpu_0_7.log")
    assert (seen.version, seen.tokens(), seen.weights_gib, seen.non_torch_gib) == (
        "0.7.2",
        61_537 * 16,
        14.2487,
        0.15,
    )
    assert seen.token_bytes() == pytest.approx(57_344, rel=0.003)


USED = "Free memory on device (77.57/79.11 GiB) on startup. Desired GPU memory utilization is (0.92, 72.78 GiB). Actual usage is "
LINES = {
    "0.8, as vllm#15815 prints it": (
        (
            "Loading model weights took 30.7098 GB\nthe current vLLM instance can use total_gpu_memory (44.42GiB) x gpu_memory_utilization (0.90) = 39.98GiB\n"
            "model weights take 30.71GiB; non_torch_memory takes 0.30GiB; PyTorch activation peak memory takes 1.26GiB; the rest of the memory reserved for KV Cache is 7.71GiB."
        ),
        {
            "weights_gib": 30.7098,
            "kv_gib": 7.71,
            "non_torch_gib": 0.30,
            "activation_gib": 1.26,
            "total_gib": 44.42,
            "budget_gib": 39.98,
        },
    ),
    "0.25, as vllm#48601 prints it": (
        USED
        + "7.39 GiB for weight, 1.54 GiB for peak activation, 0.6 GiB for non-torch memory, and 2.04 GiB for CUDAGraph memory. "
        "Replace it with `--kv-cache-memory=65565989131` (61.06 GiB) to fit into requested memory. Current kv cache memory in use is 63.25 GiB.",
        {
            "weights_gib": 7.39,
            "kv_gib": 63.25,
            "non_torch_gib": 0.6,
            "activation_gib": 1.54,
            "total_gib": 79.11,
            "budget_gib": 72.78,
        },
    ),
    "0.28, as club-3090#1139 prints it": (
        USED
        + "15.25 GiB for consumed memory (weights + non-torch), 1.66 GiB for peak activation, and 0.14 GiB for CUDAGraph memory. "
        "Current kv cache memory in use is 4.76 GiB.",
        {"consumed_gib": 15.25, "kv_gib": 4.76, "activation_gib": 1.66, "weights_gib": None},
    ),
    "0.24, with the settings as a dictionary": (
        (
            "non-default args: {'model_tag': 'Qwen/Qwen3-8B', 'model': 'Qwen/Qwen3-8B', 'max_num_seqs': 1, 'kv_cache_dtype': 'fp8'}\nInitializing a V1 LLM engine (v0.24.0) with config: x\n"
            "Available KV cache memory: 5.98 GiB\nGPU KV cache size: 567,978 tokens"
        ),
        {
            "model": "Qwen/Qwen3-8B",
            "version": "0.24.0",
            "kv_gib": 5.98,
            "kv_tokens": 567_978,
            "sequences": 1,
            "kv_dtype": "fp8",
        },
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_lines_of_other_versions(name):
    text, wanted = LINES[name]
    seen = calibrate.read(text)
    assert {key: getattr(seen, key) for key in wanted} == wanted


def test_the_last_boot_of_a_log_counts():
    text = (LOGS / "vllm_gpu_0_11.log").read_text() + (LOGS / "vllm_gpu_0_32.log").read_text()
    assert calibrate.read(text).version == "0.32.0"


def test_noise_is_refused():
    with pytest.raises(ConsiliumError, match="Available KV cache memory"):
        calibrate.read("hello\n" * 1000)


def test_a_kept_measurement_replaces_the_estimate(tmp_path):
    file, seen = tmp_path / "measured.json", boot("vllm_gpu_0_32.log")
    calibrate.save(file, "meta-llama/Llama-3.1-8B", "H100 80GB", seen)
    overhead = calibrate.Measured.load(file).overhead("Llama-3.1-8B", "H100 80GB", "0.32.0")
    assert overhead == pytest.approx(1.70 * GIB, rel=0.01)
    ask = Ask(
        shape=models.by_name("Llama-3.1-8B").shape,
        cards=(card("H100"),),
        context=4096,
        utilisation=72.91 / 79.18,
        overhead_bytes=overhead,
    )
    assert verdict.plan(ask).bill.kv[1] / GIB == pytest.approx(seen.kv_gib, abs=0.05)
    assert calibrate.Measured.load(file).overhead("Llama-3.1-8B", "H100 80GB", "0.31.0") is None


def test_a_damaged_file_of_measurements_is_one_sentence(tmp_path):
    (tmp_path / "m.json").write_text("[1]")
    with pytest.raises(ConsiliumError, match="no file of measurements"):
        calibrate.Measured.load(tmp_path / "m.json")
