"""Odd input to plan, explain and tokens is one sentence with what would work and exit code 2; what explain and tokens say about good input."""

from __future__ import annotations

import json
import os
import time

import pytest
from tests.unit.planner.typed import run

from consilium.planner import models

BAD = [
    (("--model", "Qwen3-8B", "--gpu", "RTX 4900"), "RTX 4090"),
    (("--model", "Qwen4-8B", "--gpu", "RTX 4090"), "Qwen3-8B"),
    (("--model", "Qwen3-14B", "--gpus", "3x RTX 3090", "--tp", "3"), "nearest is 2"),
    (("--model", "Qwen3-14B", "--gpu", "RTX 3090", "--tp", "2"), "1 are given"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--context", "-5"), "such as 32k"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--context", "lots"), "32k"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--weights", "int5"), "int4"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--kv", "fp9"), "fp8"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--rank", "4000", "--adapters", "1"), "512"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--targets", "q_prj"), "q_proj"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--utilisation", "1.5"), "0.9"),
    (("--model", "Qwen3-8B", "--gpu", "RTX 4090", "--adapters", "-1"), "at least 0"),
    (("--model", "Qwen3-8B", "--gpu", "P100"), "V100"),
    (("--model", "Qwen3-8B", "--gpus", "900x RTX 4090"), "64"),
    (("--model", "Qwen3-8B", "--cpu", "EPYC 9999"), "EPYC"),
    (("--model", "Qwen3-8B", "--ram", "much"), "64GB"),
    (("--model", "/no/such/config.json", "--gpu", "RTX 4090"), "Qwen3-8B"),
    (("-c", "/no/such.yaml", "--gpu", "RTX 4090"), "consilium.yaml"),
]


@pytest.mark.parametrize(("words", "hint"), BAD, ids=[hint for _, hint in BAD])
def test_bad_input_is_one_sentence_with_what_would_work(capsys, words, hint):
    code, out, err = run(capsys, "plan", *words)
    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "next"]
    assert len(err) < 500
    assert hint in err


FILES = {
    "diffusion": json.dumps(
        {"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.30.0", "sample_size": 64}
    ),
    "noise": "\x00\x07garbage" * 1000,
    "list": "[1, 2]",
    "deep": "[" * 50_000,
    "encoder": json.dumps({"model_type": "t5", "is_encoder_decoder": True, "d_model": 512}),
    "empty": "",
    "words": json.dumps({"hidden_size": "wide"}),
    "endless": json.dumps({"hidden_size": 1e400, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "mla": json.dumps(
        {
            "model_type": "deepseek_v3",
            "hidden_size": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "kv_lora_rank": 512,
        }
    ),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize(
    "command", [("plan", "--gpu", "RTX 4090", "--model"), ("explain",), ("tokens", "check")]
)
def test_files_that_are_something_else(capsys, tmp_path, command, content):
    (tmp_path / "config.json").write_text(content)
    code, _, err = run(capsys, *command, str(tmp_path / "config.json"))
    assert code == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "next"]
    assert len(err) < 400


def test_ten_megabytes_of_noise(capsys, tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(os.urandom(10 << 20))
    began = time.process_time()
    for words in (
        ("plan", "--gpu", "RTX 4090", "--model", str(file)),
        ("explain", str(file)),
        ("plan", "check-config", str(file), str(file)),
        ("plan", "-c", str(file), "--gpu", "RTX 4090"),
        ("plan", "calibrate", str(file)),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2, words
        assert [line.partition(":")[0] for line in err.splitlines()] == ["error", "next"]
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "words",
    [
        ("--sequences", "0"),
        ("--kv-gib", "0"),
        ("--kv-gib", "nan"),
        ("--kv-gib", "inf"),
        ("--tp", "0"),
        ("--pp", "0"),
        ("--nodes", "0"),
        ("--nodes", "9"),
        ("--batched-tokens", "0"),
        ("--max-cpu-loras", "-1"),
        ("--vllm", "foo"),
        ("--model", ""),
        ("--gpu", ""),
        ("--ram", ""),
        ("--cpu", ""),
        ("--weights-to-ram", ""),
        ("--hours-per-day", "nan"),
        ("-c", "x.yaml"),
    ],
)
def test_a_value_that_is_nothing_is_refused_and_not_taken_as_left_out(capsys, words):
    code, out, err = run(capsys, "plan", "--model", "Qwen3-8B", "--gpu", "RTX 4090", *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("plan", "check-config", "diffusion.json", "Qwen3-8B"), "diffusion"),
        (("plan", "check-config", "Qwen3-8B", "nobody"), "nearest known name"),
        (("plan", "training", "--model", "Qwen3-8B", "--epochs", "0"), "epochs"),
        (("plan", "training", "--model", "Qwen3-8B", "--gpu", ""), "no card is named"),
        (("plan", "context", "--model", "Qwen3-8B", "--tp", "3"), "nearest is"),
        (("tokens", ""), "it is empty"),
        (("tokens", "check", "diffusion.json"), "tokenizer.json"),
        (("explain", "."), "holds no config.json"),
    ],
)
def test_the_other_subjects_refuse_in_one_sentence(capsys, tmp_path, monkeypatch, words, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diffusion.json").write_text(
        '{"_class_name": "FluxPipeline", "_diffusers_version": "0.30"}'
    )
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert hint in err


@pytest.mark.parametrize(
    "text",
    [
        "gpus: {RTX 4090: {buy: much}}",
        "gpus: {RTX 4090: 5}",
        "gpus: [1]",
        "host: {buy: x}",
        "host: 3",
        "years: 0",
        "years: .nan",
        "electricity_per_kwh: {value: []}",
        "remote_per_million_output: -1",
        "busy_share: {}x",
        "electricity: 3",
    ],
)
def test_a_price_file_that_is_none_is_refused(capsys, tmp_path, text):
    (tmp_path / "prices.yaml").write_text(text)
    code, out, err = run(
        capsys,
        "plan",
        "--model",
        "Qwen3-8B",
        "--gpu",
        "RTX 4090",
        "--prices",
        str(tmp_path / "prices.yaml"),
    )
    assert (code, out) == (2, "")
    assert err.startswith("error: prices")


def test_prices_have_their_date_their_currency_and_say_when_nobody_checked_them(capsys, tmp_path):
    out = run(capsys, "plan", "--model", "Qwen3-8B", "--gpu", "RTX 4090")[1]
    assert "price as of 2025-11, unverified" in out
    (tmp_path / "prices.yaml").write_text(
        "currency: EUR\ngpus: {RTX 4090: {buy: 1700, rent_per_hour: 0.5, date: 2026-11}}\n"
    )
    out = run(
        capsys,
        "plan",
        "--model",
        "Qwen3-8B",
        "--gpu",
        "RTX 4090",
        "--prices",
        str(tmp_path / "prices.yaml"),
    )[1]
    assert "EUR" in out
    assert "price as of 2026-11\n" in out


def test_known_models_may_be_compared_by_name(capsys):
    code, out, _ = run(capsys, "plan", "check-config", "Qwen3-8B", "Qwen3-14B")
    assert code == 1
    assert "breaks: hidden_size 4096 -> 5120" in out


def test_explain_takes_several_files_and_goes_on_after_a_bad_one(capsys, tmp_path):
    (tmp_path / "consilium.yaml").write_text(
        "executors:\n  big: {model: Qwen3-8B, engine: {max_num_seqs: 3}}\nzzz: 1\n"
    )
    code, out, err = run(
        capsys, "explain", "Qwen3-8B", str(tmp_path / "none.json"), str(tmp_path / "consilium.yaml")
    )
    assert code == 2
    assert "none.json" in err
    assert "== Qwen3-8B" in out
    assert "Requests in one batch." in out
    assert "nearest known key" not in out
    code, out, _ = run(
        capsys, "explain", "Qwen3-8B", str(tmp_path / "consilium.yaml"), "--output", "json"
    )
    assert [page["file"] for page in json.loads(out)] == [
        "Qwen3-8B",
        str(tmp_path / "consilium.yaml"),
    ]
    (tmp_path / "consilium.yaml").write_text("model: a\nmodel: b\n")
    assert "is written twice" in run(capsys, "explain", str(tmp_path / "consilium.yaml"))[2]


def test_explain_every_kind(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(dict(models.by_name("Qwen3-30B-A3B").config)))
    code, out, _ = run(capsys, "explain", str(tmp_path / "config.json"))
    assert code == 0
    assert "breaks the model when changed" in out
    assert "30.53 billion" in out
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "r": 12,
                "lora_alpha": 24,
                "target_modules": ["q_proj"],
                "use_dora": True,
            }
        )
    )
    out = run(capsys, "explain", str(tmp_path / "adapter_config.json"))[1]
    assert "max_lora_rank 16" in out
    assert "refuses it: use_dora" in out
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "chat_template": "{% if tools %}<think>{% endif %}",
            }
        )
    )
    assert (
        "knows tools, thinking"
        in run(capsys, "explain", str(tmp_path / "tokenizer_config.json"))[1]
    )
    (tmp_path / "consilium.yaml").write_text(
        "model: demo\nengine: {max_model_len: 4096, max_num_seq: 3}\n"
    )
    out = run(capsys, "explain", str(tmp_path / "consilium.yaml"))[1]
    assert "Requests in one batch" not in out
    assert "The nearest known key is max_num_seqs." in out


def test_tokens(capsys, tmp_path):
    code, out, _ = run(capsys, "tokens", "\u041f\u0440\u0438\u0432\u0435\u0442, world")
    assert code == 0
    assert "characters a token" in out
    (tmp_path / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": {"a": 0, "b": 999_999}}, "added_tokens": []})
    )
    code, out, _ = run(
        capsys, "tokens", "check", str(tmp_path / "tokenizer.json"), "--model", "Qwen3-8B"
    )
    assert code == 1
    assert "no row in the embedding table of 151936" in out
