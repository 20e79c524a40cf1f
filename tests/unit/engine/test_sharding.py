"""Which cuts a shape allows: the engine's plan and the planner's gate give one verdict, and it is that of vLLM."""

import json

import pytest

from consilium.engine import model_facts, sharding
from consilium.engine.config import EngineSettings, Shape
from consilium.kernel.errors import ConsiliumError
from consilium.planner import models
from consilium.planner.cards import Card
from consilium.planner.gate import gate

MODELS = (
    "SmolLM2-135M",
    "Qwen2.5-7B",
    "Qwen3-8B",
    "Qwen3-14B",
    "Qwen3-8B-AWQ",
    "Qwen3-30B-A3B",
    "Qwen3-Next-80B-A3B",
    "Qwen3.5-27B",
    "Mixtral-8x7B",
)
CUTS = [(tp, pp) for tp in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32) for pp in (1, 2, 4)]
ROOM = Card("a card with room for anything", 4000.0, compute_capability=9.0)


def read(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x")
    return model_facts.read(folder, "m")


def refused(facts, settings, tp, pp):
    try:
        sharding.check_shape(
            Shape(tensor_parallel=tp, pipeline_parallel=pp),
            facts,
            settings,
            key="topology",
            settings_key="engine",
            on_cores=False,
        )
    except ConsiliumError as err:
        return err.fields["key"]
    return None


@pytest.mark.parametrize("whole", [False, True], ids=["experts cut", "experts whole"])
@pytest.mark.parametrize("name", MODELS)
def test_the_plan_and_the_gate_give_one_verdict(tmp_path, name, whole):
    known = models.by_name(name)
    quantised = {"quantization_config": {"quant_method": "awq", "bits": 4}}
    config = {**known.config, **(quantised if known.weights == "int4" else {})}
    facts = read(tmp_path, config)
    engine = {"max_model_len": 1024, "extra_args": {"enable_expert_parallel": whole}}
    verdicts = {
        cut: (
            refused(facts, EngineSettings(extra_args=engine["extra_args"]), *cut) is not None,
            gate(
                config,
                engine,
                cards=[ROOM] * (cut[0] * cut[1]),
                tensor_parallel=cut[0],
                pipeline_parallel=cut[1],
            ).verdict
            == "no",
        )
        for cut in CUTS
    }
    assert {cut: both for cut, both in verdicts.items() if both[0] != both[1]} == {}
    assert len({both[0] for both in verdicts.values()}) == (
        1 if whole and not facts.shape.is_moe else 2
    )


def test_whole_experts_need_not_be_spread_evenly(tmp_path):
    config = {**models.by_name("Qwen3-30B-A3B").config, "num_experts": 66}
    facts = read(tmp_path, config)
    whole = EngineSettings(extra_args={"enable_expert_parallel": True})
    assert refused(facts, whole, 4, 1) is None, "two ranks hold 17 experts, two hold 16"
    assert refused(facts, EngineSettings(), 4, 1) is None, "768 / 4"


def test_more_ranks_than_experts_are_refused_either_way(tmp_path):
    config = {**models.by_name("Qwen3-30B-A3B").config, "num_experts": 4}
    facts = read(tmp_path, config)
    for whole in (False, True):
        settings = EngineSettings(extra_args={"enable_expert_parallel": whole})
        assert refused(facts, settings, 8, 1) == "topology.tensor_parallel"


def test_whole_experts_of_a_dense_model_name_the_key(tmp_path):
    facts = read(tmp_path, models.by_name("Qwen3-8B").config)
    settings = EngineSettings(extra_args={"enable_expert_parallel": True})
    assert refused(facts, settings, 2, 1) == "engine.extra_args.enable_expert_parallel"


def test_the_width_of_whole_experts_is_not_cut(tmp_path):
    config = {**models.by_name("Qwen3-30B-A3B").config, "moe_intermediate_size": 770}
    facts = read(tmp_path, config)
    assert refused(facts, EngineSettings(), 4, 1) == "topology.tensor_parallel"
    assert refused(facts, EngineSettings(extra_args={"enable_expert_parallel": True}), 4, 1) is None
