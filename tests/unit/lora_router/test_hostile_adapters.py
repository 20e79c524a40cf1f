"""Every broken or hostile adapter is refused, by its own rule and with a way out; and the good ones are not."""

import pytest
from tests.unit.lora_router import hostile, made, misfits

from consilium.kernel.errors import ConsiliumError
from consilium.lora_router import adapter_files, base_modules, check_report, fit, identity

BROKEN = {**hostile.FILES, **hostile.HEADERS, **hostile.CONFIGS, **hostile.NAMES, **hostile.VALUES}
DENSE = base_modules.of(made.TINY, "tiny")
MOE = base_modules.of(made.TINY_MOE, "tiny-moe")
SEEING = {"model_type": "qwen3_vl_moe", "text_config": made.TINY_MOE, "vision_config": {}}
ENGINES = {
    "dense": (DENSE, fit.NOTHING),
    "moe": (MOE, fit.NOTHING),
    "mixed": (MOE, fit.Wanted(mixed_experts=True)),
    "small": (DENSE, fit.Wanted(max_rank=1)),
    "narrow": (DENSE, fit.Wanted(target_modules=("q_proj", "down_proj"))),
}


def engine(name):
    return (base_modules.of(SEEING, "seeing"), fit.NOTHING) if name == "fused" else ENGINES[name]


def test_the_corpus_is_large_enough():
    assert len(BROKEN) + len(misfits.MISFITS) >= 150
    assert len({code for code, _ in BROKEN.values()}) >= 60


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.replace(" ", "_"))
def test_it_is_refused_by_its_own_rule(tmp_path, case):
    code, make = BROKEN[case]
    folder = tmp_path / "adapter"
    make(folder)
    with pytest.raises(ConsiliumError) as caught:
        adapter_files.describe(folder)
    assert caught.value.code == "adapter_refused"
    assert caught.value.fields["check"] == code
    assert caught.value.fields["way"]
    assert caught.value.public().isprintable()
    assert len(caught.value.public()) < 800
    found = check_report.report(folder, DENSE)
    assert code in {row.code for row in found.rows if row.verdict == "refused"}


@pytest.mark.parametrize(
    "case", sorted(BROKEN.keys() - hostile.VALUES.keys()), ids=lambda case: case.replace(" ", "_")
)
def test_the_hash_before_a_load_refuses_it_as_well(tmp_path, case):
    """But for values: they were read at registration, and the hash says that they are the same."""
    folder = tmp_path / "adapter"
    BROKEN[case][1](folder)
    with pytest.raises(ConsiliumError):
        adapter_files.content_sha(folder)


@pytest.mark.parametrize("case", misfits.MISFITS, ids=lambda case: case.replace(" ", "_"))
def test_a_whole_adapter_that_does_not_fit_is_refused(tmp_path, case):
    code, named, make = misfits.MISFITS[case]
    folder = tmp_path / "adapter"
    make(folder)
    described = adapter_files.describe(folder)
    base, wanted = engine(named)
    found = fit.check(described, base, wanted)
    assert code in {refusal.code for refusal in found.refusals}
    assert all(refusal.way for refusal in found.refusals)
    with pytest.raises(ConsiliumError):
        found.demand()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".hidden",
        "a/b",
        "A",
        "spоrt",
        "ｓport",
        "a\n",
        "a b",
        "",
        "a" * 64,
        "a\x00b",
        "x:../../y",
        "x@nan",
        "x@1e3",
        "x@11",
    ],
)
def test_no_name_leads_anywhere(name):
    with pytest.raises(ConsiliumError):
        identity.parse(name)


GOOD = {
    "attention": ("dense", {}),
    "everything": ("dense", {"tensors": made.factors(made.modules(tuple(made.WIDTHS)))}),
    "bfloat16": ("dense", {"dtype": "BF16"}),
    "float16": ("dense", {"dtype": "F16"}),
    "kinds mixed": ("dense", {"dtype": {hostile.A: "BF16"}}),
    "rsLoRA": ("dense", {"use_rslora": True}),
    "targets as a pattern": ("dense", {"target_modules": ".*_proj"}),
    "alpha as a fraction": ("dense", {"lora_alpha": 0.5}),
    "begun by Gauss": ("dense", {"init_lora_weights": "gaussian"}),
    "written by an old PEFT": (
        "dense",
        {
            key: ...
            for key in made.config()
            if key not in ("peft_type", "r", "lora_alpha", "target_modules")
        },
    ),
    "labelled by a trainer of models that see": ("dense", {"task_type": "SEQ_2_SEQ_LM"}),
    "every module by its whole name": ("dense", {"target_modules": list(made.modules())}),
    "without a base's name": ("dense", {"base_model_name_or_path": None, "task_type": None}),
    "written by a new one": ("dense", {"feature_of_tomorrow": None, "another": {}}),
    "odd rank": ("dense", {"tensors": made.factors(made.modules(), 12), "r": 12}),
    "rank 1": ("dense", {"tensors": made.factors(made.modules(), 1), "r": 1}),
    "patterns": (
        "dense",
        {
            "tensors": made.factors(made.modules(), lambda m: 4 if "layers.1" in m else 8),
            "rank_pattern": {r"layers\.1\..*": 4},
            "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 32},
        },
    ),
    "strong and small": ("dense", {"tensors": made.factors(made.modules(), size=0.1)}),
    "trained gently": ("dense", {"tensors": made.factors(made.modules(), size=0.004)}),
    "one layer": ("dense", {"tensors": made.factors(made.modules(layers=1))}),
    "experts one by one": ("moe", {"tensors": made.factors(made.expert_modules())}),
    "attention of a mixture": ("moe", {}),
    "the router": ("moe", {"tensors": made.factors({"model.layers.0.mlp.gate": (64, 4)})}),
    "experts together": ("mixed", {"tensors": made.fused_experts()}),
    "slots for q are slots for k": ("narrow", {}),
}


@pytest.mark.parametrize("case", GOOD)
def test_no_false_alarm(tmp_path, case):
    named, how = GOOD[case]
    how = {"target_modules": "all-linear"} | how
    folder = made.write(tmp_path / "adapter", how.pop("tensors", None), **how)
    if named == "narrow":
        how = {}
    base, wanted = engine(named)
    if case == "slots for q are slots for k":
        wanted = fit.Wanted(target_modules=("q_proj", "o_proj"))
    found = check_report.report(folder, base, wanted)
    rows = [row for row in found.rows if row.verdict != "good" and row.code != "slot"]
    assert not rows
    assert found.is_good
    assert found.described.sha == adapter_files.content_sha(folder)
