"""Sums are exact: against the dense sum of B @ A, for rsLoRA, patterns, disjoint modules and experts in both layouts."""

import json
import os
import random

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.bf16 import from_bf16
from tests.unit.lora_router import made
from tests.unit.lora_router.dense import deltas, dense_sum

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files
from consilium.lora_router.composition import Term, compose


def error(found, wanted):
    """Return the relative Frobenius error of the whole adapter; no module may be far worse."""
    assert found.keys() == wanted.keys()
    gaps = {module: np.linalg.norm(found[module] - wanted[module]) for module in wanted}
    sizes = {module: np.linalg.norm(wanted[module]) for module in wanted}
    assert max(gaps[module] / sizes[module] for module in wanted) <= 3e-3
    return np.linalg.norm(list(gaps.values())) / np.linalg.norm(list(sizes.values()))


def summed(tmp_path, *terms, **how):
    folder = tmp_path / "sum"
    folder.mkdir()
    described = compose([Term(*term) for term in terms], folder, **how)
    assert described.sha == adapter_files.content_sha(folder)
    return folder, described


def refusal(tmp_path, *terms, **how):
    with pytest.raises(ConsiliumError) as caught:
        summed(tmp_path, *terms, **how)
    assert not list((tmp_path / "sum").iterdir())
    return caught.value.fields["check"]


def plain(tmp_path, name, seed, kinds=made.ATTENTION, r=8, *, dtype="BF16", **over):
    tensors = made.factors(made.modules(kinds), r, seed)
    return made.write(tmp_path / name, tensors, dtype=dtype, r=r, **over)


def random_parts(tmp_path, seed, dtype):
    """Return two to four random terms: any modules, ranks, scales, patterns, weights."""
    rng = random.Random(seed)
    terms = []
    for number in range(rng.randint(2, 4)):
        kinds = rng.sample(list(made.WIDTHS), rng.randint(1, 7))
        r, odd = rng.choice([4, 8, 12, 16]), rng.choice([2, 24])
        uneven = rng.random() < 0.5
        ranks = {"mlp.down_proj": odd, "layers.1.self_attn.q_proj": odd} if uneven else {}

        def rank(module, r=r, ranks=ranks):
            return next((value for key, value in ranks.items() if module.endswith(key)), r)

        folder = made.write(
            tmp_path / str(number),
            made.factors(made.modules(kinds), rank, seed * 10 + number, rng.choice([0.01, 0.3])),
            dtype=dtype,
            r=r,
            lora_alpha=rng.choice([7, 16, 64]),
            use_rslora=rng.random() < 0.5,
            rank_pattern=ranks,
            alpha_pattern={r"self_attn\.(q|v)_proj": 5} if rng.random() < 0.5 else {},
        )
        terms.append((folder, rng.choice([1.0, 0.7, 0.5, -0.3, 2.25])))
    return terms


@pytest.mark.parametrize("seed", range(20))
def test_the_error_of_random_sums_stays_below_two_thousandths_in_bf16(tmp_path, seed):
    terms = random_parts(tmp_path, seed, "BF16")
    folder, _ = summed(tmp_path, *terms)
    assert error(deltas(folder), dense_sum(*terms)) <= 2e-3


@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_finer_parts_lose_what_an_engine_in_bf16_takes_from_each_of_them_anyway(tmp_path, dtype):
    """Both factors are rounded then, not B alone: 2.1e-3 for Gaussian factors, for a sum as for an adapter by itself."""
    for seed in range(5):
        terms = random_parts(tmp_path / str(seed), seed, dtype)
        folder, _ = summed(tmp_path / str(seed), *terms)
        assert error(deltas(folder), dense_sum(*terms)) <= 2.4e-3


def test_in_float32_nothing_is_lost(tmp_path):
    terms = [(plain(tmp_path, "a", 1), 0.7), (plain(tmp_path, "b", 2, tuple(made.WIDTHS), 16), 0.5)]
    folder, _ = summed(tmp_path, *terms, dtype="F32")
    assert error(deltas(folder), dense_sum(*terms)) <= 1e-6


def test_scale_is_one_and_the_file_is_what_the_library_reads(tmp_path):
    one = plain(tmp_path, "a", 1, dtype="F32", use_rslora=True, lora_alpha=3)
    folder, described = summed(
        tmp_path, (one, 1.0), (plain(tmp_path, "b", 2, r=16), 0.5), dtype="F32"
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (24, 24, False)
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert described.rank == 24
    tensors = load_file(folder / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    first = load_file(one / "adapter_model.safetensors")[name]
    assert np.allclose(tensors[name][:, :8], first * 3 / 8**0.5, rtol=1e-6)


def test_rounding_is_to_the_nearest(tmp_path):
    folder, _ = summed(tmp_path, (plain(tmp_path, "a", 1), 0.3))
    raw = (folder / "adapter_model.safetensors").read_bytes()
    with adapter_files.opened(folder) as files:
        pair = files.files.pairs[0]
    stored = from_bf16(np.frombuffer(raw[pair.a.start : pair.a.end], "<u2"))
    exact = made.factors(made.modules())[pair.a.name].ravel()
    assert (np.abs(stored - exact) <= np.abs(exact) / 256).all()


def test_modules_that_only_one_has_come_from_that_one(tmp_path):
    terms = [
        (plain(tmp_path, "a", 1, ("self_attn.q_proj",)), 1.0),
        (plain(tmp_path, "b", 2, ("mlp.down_proj",)), 0.25),
    ]
    folder, described = summed(tmp_path, *terms)
    assert len(described.modules) == 4
    assert error(deltas(folder), dense_sum(*terms)) <= 2e-3


@pytest.mark.parametrize("fused", [False, True])
def test_experts_are_added_in_either_layout(tmp_path, fused):
    def experts(name, r, seed):
        tensors = (
            made.fused_experts(r, seed=seed)
            if fused
            else made.factors(made.expert_modules(), r, seed)
        )
        return made.write(
            tmp_path / name, tensors | made.factors(made.modules(), r, seed), dtype="BF16", r=r
        )

    terms = [(experts("a", 8, 1), 1.0), (experts("b", 4, 2), -0.7)]
    folder, described = summed(tmp_path, *terms)
    assert described.is_3d is fused
    assert described.rank == 12
    assert error(deltas(folder), dense_sum(*terms)) <= 2e-3


def test_experts_are_not_blown_up_to_the_rank_of_attention(tmp_path):
    core = plain(tmp_path, "core", 1, r=32)
    experts = made.write(
        tmp_path / "x", made.factors(made.expert_modules(), 4, 2), dtype="BF16", r=4
    )
    folder, described = summed(tmp_path, (core, 1.0), (experts, 1.0))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert described.modules["model.layers.0.mlp.experts.3.gate_proj"][0] == 4
    assert len(config["rank_pattern"]) == 3
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert not described.remarks
    assert error(deltas(folder), dense_sum((core, 1.0), (experts, 1.0))) <= 2e-3


def test_all_experts_of_a_layer_get_one_rank(tmp_path):
    """vLLM stacks them, and refuses ranks that differ within a projection."""
    some = {name: width for name, width in made.expert_modules().items() if ".experts.0." in name}
    terms = [
        (made.write(tmp_path / "a", made.factors(made.expert_modules(), 4, 1), r=4), 1.0),
        (made.write(tmp_path / "b", made.factors(some, 8, 2), r=8), 1.0),
    ]
    _, described = summed(tmp_path, *terms)
    assert {rank for rank, _, _ in described.modules.values()} == {12}


def test_a_part_with_weight_nought_is_none(tmp_path):
    terms = [(plain(tmp_path, "a", 1), 1.0), (plain(tmp_path, "b", 2, r=64), 0.0)]
    _, described = summed(tmp_path, *terms)
    assert described.rank == 8


@pytest.mark.parametrize(
    ("over", "how", "code"),
    [
        ({"base_model_name_or_path": "Qwen/Qwen3-8B"}, {}, "bases_differ"),
        ({"use_dora": True}, {}, "dora"),
        ({}, {"max_rank": 8}, "rank_too_large"),
        ({"lora_alpha": 60000}, {"dtype": "F16"}, "overflow"),
    ],
)
def test_what_cannot_be_added_is_refused(tmp_path, over, how, code):
    one = plain(tmp_path, "a", 1, base_model_name_or_path="unsloth/Qwen3-4B-bnb-4bit")
    over = {"base_model_name_or_path": "Qwen/Qwen3-4B"} | over
    two = made.write(tmp_path / "b", made.factors(made.modules(), 8, 2, 30.0), **over)
    assert refusal(tmp_path, (one, 1.0), (two, 1.0), **how) == code


def test_other_shapes_and_other_layouts_are_refused(tmp_path):
    one = plain(tmp_path, "a", 1)
    wide = made.write(tmp_path / "b", made.factors({"model.layers.0.self_attn.q_proj": (128, 64)}))
    assert refusal(tmp_path, (one, 1.0), (wide, 1.0)) == "widths_differ"
    os.rmdir(tmp_path / "sum")
    fused = made.write(tmp_path / "c", made.fused_experts())
    single = made.write(tmp_path / "d", made.factors(made.expert_modules()))
    assert refusal(tmp_path, (fused, 1.0), (single, 1.0)) == "layouts_differ"


def test_nothing_and_what_cancels_out(tmp_path):
    one = plain(tmp_path, "a", 1)
    assert refusal(tmp_path, (one, 0.0)) == "sum_empty"
