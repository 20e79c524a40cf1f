"""`consilium adapters check` says what every rule found, and ends with 0 or 1."""

import json

import pytest
from tests.unit.lora_router import made

from consilium.cli.app import main
from consilium.demo import tiny, voice_files
from consilium.planner.models import find
from consilium.planner.shapes import Shape


def of_model(name):
    """Return an adapter's modules for the attention of a model of the table, two layers of it."""
    shape: Shape = find(name).shape
    return {
        f"model.layers.{layer}.self_attn.{kind}": widths
        for layer in range(2)
        for kind, widths in {
            "q_proj": (shape.hidden, shape.q_width),
            "o_proj": (shape.q_width, shape.hidden),
        }.items()
    }


@pytest.fixture
def of_30b(tmp_path):
    return made.write(
        tmp_path / "a",
        made.factors(of_model("Qwen3-30B-A3B"), 8, size=0.01),
        base_model_name_or_path="Qwen/Qwen3-30B-A3B",
        target_modules=["q_proj", "o_proj"],
    )


def told(capsys, *words):
    code = main(["adapters", "check", *map(str, words)])
    said = capsys.readouterr()
    return code, said.out + said.err


def rules(capsys, *words):
    code, out = told(capsys, *words, "--output", "json")
    found = json.loads(out)
    assert found["good"] is (code == 0)
    return {row["code"]: row["verdict"] for row in found["rows"]}


def test_is_my_30b_lora_good_for_other_models(of_30b, capsys):
    assert rules(capsys, of_30b, "--base", "Qwen3-30B-A3B") == {
        "format": "good",
        "fits": "good",
        "slot": "good",
    }
    sibling = rules(capsys, of_30b, "--base", "Qwen3-Coder-30B-A3B-Instruct")
    assert sibling["base_variant"] == "remark"
    assert sibling["fits"] == "good"
    for other in ("Qwen3-32B", "Qwen2.5-72B", "Qwen3-235B-A22B", "Qwen3-8B"):
        assert rules(capsys, of_30b, "--base", other)["shape_differs"] == "refused"


def test_where_a_mixture_of_experts_serves_adapters_is_said(of_30b, capsys):
    _, out = told(capsys, of_30b, "--base", "Qwen3-30B-A3B", "--output", "json")
    (fits,) = [row for row in json.loads(out)["rows"] if row["code"] == "fits"]
    assert "serves adapters on cards alone" in fits["reason"]


def test_both_shapes_are_printed(of_30b, capsys):
    code, out = told(capsys, of_30b, "--base", "Qwen3-32B")
    assert code == 1
    assert "A is (8, 4096) and B (2048, 8)" in out
    assert "Qwen3-32B (64 layers of width 5120) wants (8, 8192) and (5120, 8)" in out
    assert out.rstrip().endswith("is refused.")


def test_settings_of_the_engine_are_asked(of_30b, capsys):
    small = rules(capsys, of_30b, "--base", "Qwen3-30B-A3B", "--max-rank", 1)
    assert small["rank_too_large"] == "refused"
    narrow = rules(capsys, of_30b, "--base", "Qwen3-30B-A3B", "--target-modules", "q_proj")
    assert narrow["module_no_slot"] == "refused"


def test_experts_in_both_layouts_are_asked(tmp_path, capsys):
    layer = "model.layers.0.mlp.experts"
    named = {f"{layer}.base_layer": (2048, 1536), layer: (768, 2048)}
    folder = made.write(tmp_path / "a", made.factors(named, 128), r=1)
    asked = (folder, "--base", "Qwen3-30B-A3B")
    assert rules(capsys, *asked)["experts_3d"] == "refused"
    assert rules(capsys, *asked, "--mixed-experts")["fits"] == "good"


def test_without_a_model_the_files_alone_are_checked(of_30b, tmp_path, capsys):
    assert rules(capsys, of_30b) == {"format": "good"}
    broken = made.write(tmp_path / "b", use_dora=True)
    assert rules(capsys, broken) == {"dora": "refused"}
    assert rules(capsys, tmp_path / "none") == {"folder_missing": "refused"}


def test_a_config_json_is_a_model(of_30b, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(find("Qwen3-30B-A3B").config))
    assert rules(capsys, of_30b, "--base", tmp_path / "config.json")["fits"] == "good"
    code, out = told(capsys, of_30b, "--base", "Qwen9")
    assert code == 2
    assert "nearest known name" in out


def test_a_quantised_base_and_heavy_experts_are_remarked(tmp_path, capsys):
    config = dict(find("Qwen3-30B-A3B").config)
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    experts = {
        f"model.layers.0.mlp.experts.{expert}.{kind}": widths
        for expert in range(128)
        for kind, widths in {
            "gate_proj": (2048, 768),
            "up_proj": (2048, 768),
            "down_proj": (768, 2048),
        }.items()
    }
    folder = made.write(tmp_path / "a", made.factors(experts, 1), r=1, target_modules="all-linear")
    found = rules(capsys, folder, "--base", tmp_path / "config.json")
    assert found["base_quantised"] == "remark"
    assert found["slot"] == "remark"
    assert found["fits"] == "good"


def test_the_weights_of_a_base_tell_whether_an_adapter_is_scaled_wrongly(tmp_path, capsys):
    model = tiny.make(tmp_path / "model")
    named = {
        f"model.layers.{layer}.{kind}": widths
        for layer in range(tiny.LAYERS)
        for kind, widths in {
            "self_attn.q_proj": (tiny.HIDDEN, tiny.HEADS * tiny.HEAD_DIM),
            "mlp.down_proj": (tiny.INTERMEDIATE, tiny.HIDDEN),
        }.items()
    }
    how = {"r": 8, "target_modules": "all-linear"}
    good = made.write(tmp_path / "good", made.factors(named, 8, size=0.02), lora_alpha=16, **how)
    assert rules(capsys, good, "--base", model)["scale"] == "good"
    wrong = made.write(
        tmp_path / "wrong", made.factors(named, 8, size=0.02), lora_alpha=4096, **how
    )
    found = rules(capsys, wrong, "--base", model)
    assert found["larger_than_base"] == "remark"
    assert found["fits"] == "good"
    (model / "model.safetensors").write_bytes(b"broken")
    assert "scale" not in rules(capsys, good, "--base", model)


def test_voices_of_the_demo_model_have_a_short_name(capsys):
    for voice in voice_files.VOICES:
        assert rules(capsys, f"demo:{voice}", "--base", "demo") == {
            "format": "good",
            "fits": "good",
            "slot": "good",
        }
    assert main(["adapters", "check", "demo:pirate"]) == 1
    assert "demo:captain, demo:cook, demo:lawyer" in capsys.readouterr().err
