"""Good adapters are taken, described and hashed; what has no meaning changes no hash, and what has one does."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.unit.lora_router import made

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files


def test_an_adapter_is_described(tmp_path):
    found = adapter_files.describe(made.write(tmp_path / "a"))
    assert (found.rank, found.base, found.is_3d, found.remarks) == (8, "Qwen/Qwen3-tiny", False, ())
    assert found.modules["model.layers.1.self_attn.k_proj"] == (8, 64, 32)
    assert len(found.modules) == 8
    assert len(found.sha) == 64
    assert found.size_bytes == sum(file.stat().st_size for file in (tmp_path / "a").iterdir())


def test_the_hash_alone_is_the_hash_of_the_description(tmp_path):
    folder = made.write(tmp_path / "a", dtype="BF16")
    assert adapter_files.content_sha(folder) == adapter_files.describe(folder).sha


def test_a_file_by_the_safetensors_library_hashes_like_one_in_another_order(tmp_path):
    tensors = made.factors(made.modules())
    one = made.write(tmp_path / "one", tensors)
    two = made.write(tmp_path / "two", dict(reversed(tensors.items())))
    three = made.write(tmp_path / "three")
    save_file(tensors, three / "adapter_model.safetensors", {"format": "pt", "note": "x"})
    assert {adapter_files.content_sha(folder) for folder in (one, two, three)} == {
        adapter_files.content_sha(one)
    }


@pytest.mark.parametrize(
    "over",
    [
        {"lora_dropout": 0.5},
        {"target_modules": "all-linear"},
        {"base_model_name_or_path": "elsewhere/model"},
        {"lora_alpha": 16.0},
        {"r": 8, "lora_alpha": 32, "alpha_pattern": {".*_proj": 16}},
        {"use_rslora": True, "lora_alpha": 2 * 8**0.5},
        {"feature_of_tomorrow": None},
    ],
)
def test_keys_without_a_meaning_do_not_change_the_hash(tmp_path, over):
    plain = adapter_files.content_sha(made.write(tmp_path / "a"))
    assert adapter_files.content_sha(made.write(tmp_path / "b", **over)) == plain


def test_what_has_a_meaning_changes_the_hash(tmp_path):
    tensors = made.factors(made.modules())
    touched = {name: values.copy() for name, values in tensors.items()}
    next(iter(touched.values()))[0, 0] += 0.001
    folders = [
        made.write(tmp_path / "a", tensors),
        made.write(tmp_path / "b", tensors, lora_alpha=17),
        made.write(tmp_path / "c", tensors, use_rslora=True),
        made.write(tmp_path / "d", tensors, alpha_pattern={"layers.0.self_attn.q_proj": 8}),
        made.write(tmp_path / "e", tensors, dtype="BF16"),
        made.write(tmp_path / "f", touched),
    ]
    assert len({adapter_files.content_sha(folder) for folder in folders}) == len(folders)


def test_patterns_give_each_module_its_rank_and_scale(tmp_path):
    def rank(module):
        return 32 if module == "model.layers.1.self_attn.q_proj" else 8

    folder = made.write(
        tmp_path / "a",
        made.factors(made.modules(), rank),
        use_rslora=True,
        rank_pattern={"layers.1.self_attn.q_proj": 32},
        alpha_pattern={r"layers\.\d+\.self_attn\.(q|k)_proj": 64},
    )
    files = adapter_files.read(folder)
    scales = {pair.module: (pair.rank, pair.scale) for pair in files.pairs}
    assert scales["model.layers.1.self_attn.q_proj"] == (32, 64 / 32**0.5)
    assert scales["model.layers.0.self_attn.k_proj"] == (8, 64 / 8**0.5)
    assert scales["model.layers.0.self_attn.v_proj"] == (8, 16 / 8**0.5)
    assert files.described().rank == 32


def test_what_lies_beside_the_two_files_is_not_looked_at(tmp_path):
    folder = made.write(tmp_path / "a")
    for name in ("README.md", "training_args.bin", "tokenizer.json", "optimizer.pt"):
        (folder / name).write_bytes(b"\x80\x04.")
    (folder / "checkpoint-500").mkdir()
    assert adapter_files.describe(folder).remarks == ()


def test_experts_in_both_layouts(tmp_path):
    single = adapter_files.describe(made.write(tmp_path / "a", made.factors(made.expert_modules())))
    fused = adapter_files.describe(made.write(tmp_path / "b", made.fused_experts()))
    assert not single.is_3d
    assert fused.is_3d
    assert fused.config["experts"] == 4
    assert fused.modules["model.layers.0.mlp.experts.base_layer"] == (8, 64, 64)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    folder = made.write(tmp_path / "a")

    def read():
        with adapter_files.opened(folder):
            os.utime(folder / "adapter_model.safetensors", (1, 1))

    with pytest.raises(ConsiliumError) as caught:
        read()
    assert caught.value.fields["check"] == "file_changed"


def test_another_content_under_the_same_name_hashes_otherwise_at_load(tmp_path):
    folder = made.write(tmp_path / "a")
    before = adapter_files.content_sha(folder)
    made.write(folder, made.factors(made.modules(), seed=2))
    assert adapter_files.content_sha(folder) != before


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_weighing_is_the_norm_of_the_dense_product(dtype):
    from consilium.lora_router.factors import as_bytes, as_floats, weigh

    rng = np.random.default_rng(3)
    a, b = (rng.normal(0, 1e-3, shape).astype(np.float32) for shape in ((16, 200), (300, 16)))
    a, b = (
        as_floats(as_bytes(a, dtype), dtype, a.shape),
        as_floats(as_bytes(b, dtype), dtype, b.shape),
    )
    dense = 2.5 * np.linalg.norm(b.astype(np.float64) @ a.astype(np.float64))
    assert weigh(a, b, 2.5).norm == pytest.approx(dense, rel=1e-5)


def test_a_refusal_is_one_sentence_with_its_code(tmp_path):
    folder = made.write(tmp_path / "a", use_dora=True)
    with pytest.raises(ConsiliumError) as caught:
        adapter_files.describe(folder)
    assert caught.value.code == "adapter_refused"
    assert caught.value.fields["check"] == "dora"
    assert caught.value.public().startswith("adapter_config.json, use_dora: it uses DoRA")
    assert json.loads((folder / "adapter_config.json").read_text())["use_dora"] is True
