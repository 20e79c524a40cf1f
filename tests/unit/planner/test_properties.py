"""Laws that hold for every question: more never needs less, splitting never needs more, a proposal fits when it is asked again."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from consilium.kernel.errors import ConsiliumError
from consilium.planner import (
    edits,
    explain,
    kv,
    models,
    question_file,
    rope,
    search,
    topologies,
    verdict,
)
from consilium.planner.ask import Ask
from consilium.planner.bill import bills
from consilium.planner.cards import card
from consilium.planner.figures import GIB, table
from consilium.planner.gate import gate
from consilium.planner.lora import Slots
from consilium.planner.proposal import document, yaml_text
from consilium.planner.sharding import Cut, partition_for, possible_tp, stages

NAMES = [
    "Qwen3-0.6B",
    "Qwen3-8B",
    "Qwen3-32B",
    "Qwen3-30B-A3B",
    "Qwen2.5-72B",
    "Qwen3.5-27B",
    "Qwen3-Next-80B-A3B",
    "Qwen3-VL-8B",
    "Llama-3.1-8B",
]
settings.register_profile(
    "planner",
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
LAWS = settings.get_profile("planner")
MODERN = [
    name for row in table("gpus")["gpus"] if card(name := row["name"]).compute_capability >= 7.0
]
TARGETS = [("attention",), ("attention", "mlp", "experts"), ("attention", "mlp", "experts", "head")]

shapes = st.sampled_from(NAMES).map(lambda name: models.by_name(name).shape)
questions = st.builds(
    Ask,
    shape=shapes,
    cards=st.sampled_from(MODERN).map(lambda name: (card(name),)),
    weights=st.sampled_from(["bf16", "fp8", "int4", "nvfp4"]),
    kv_dtype=st.sampled_from(["bf16", "fp8"]),
    context=st.integers(16, 1 << 20),
    requests=st.integers(1, 64),
    sequences=st.integers(1, 2048),
    batched_tokens=st.integers(16, 65_536),
    utilisation=st.floats(0.1, 0.98),
    lora=st.builds(
        Slots, slots=st.integers(0, 64), rank=st.integers(1, 512), targets=st.sampled_from(TARGETS)
    ),
    version=st.sampled_from(["0.11.0", "0.19.1", "0.22.1", "0.32.0", "0.33.0"]),
)


def need(ask: Ask) -> float:
    """Bytes that the question needs on the deciding card: everything but what is left over."""
    bill = bills(ask)[0]
    return bill.spent() + bill.kv_needed


def margin(ask: Ask) -> float:
    return verdict.plan(ask).margin


@LAWS
@given(questions, st.integers(1, 1 << 18))
def test_more_context_never_needs_less(ask, more):
    assert need(ask.with_(context=ask.context + more)) >= need(ask)


@LAWS
@given(questions, st.integers(1, 1024))
def test_more_sequences_never_need_less(ask, more):
    assert need(ask.with_(sequences=ask.sequences + more)) >= need(ask)


@LAWS
@given(questions, st.integers(1, 64))
def test_more_requests_never_need_less(ask, more):
    assert need(ask.with_(requests=ask.requests + more)) >= need(ask)


@LAWS
@given(questions, st.integers(1, 64))
def test_more_adapters_never_need_less(ask, more):
    assert need(
        ask.with_(lora=Slots(ask.lora.slots + more, ask.lora.rank, ask.lora.targets))
    ) >= need(ask)


@LAWS
@given(questions, st.integers(1, 512))
def test_more_rank_never_needs_less(ask, more):
    assume(ask.lora.rank + more <= 512)
    assert need(
        ask.with_(lora=Slots(ask.lora.slots, ask.lora.rank + more, ask.lora.targets))
    ) >= need(ask)


@LAWS
@given(questions, st.floats(0.0, 0.3))
def test_a_larger_share_never_leaves_less(ask, more):
    assume(ask.utilisation + more <= 1.0)
    assert margin(ask.with_(utilisation=ask.utilisation + more)) >= margin(ask)


@LAWS
@given(questions, st.integers(2, 16))
def test_splitting_never_needs_more_weights_or_kv_per_card_than_the_whole(ask, tp):
    assume(tp in possible_tp(ask.shape, 16, ask.weights))
    whole, part = bills(ask)[0], bills(ask.with_(cut=Cut(tp), cards=ask.cards * tp))[0]
    assert part.part("weights").likely <= whole.part("weights").likely
    assert part.kv_needed <= whole.kv_needed
    if ask.lora.slots:
        assert part.part("LoRA slots").likely <= whole.part("LoRA slots").likely


@LAWS
@given(shapes, st.integers(1, 16))
def test_stages_hold_every_layer_once(shape, pp):
    cut = stages(shape, pp)
    assert sum(stage.layers for stage in cut) == shape.layers
    assert max(stage.layers for stage in cut) - min(stage.layers for stage in cut) <= 1
    assert (cut[0].first, cut[-1].last) == (True, True)


@LAWS
@given(shapes, st.lists(st.floats(0.1, 200.0), min_size=1, max_size=8))
def test_layers_by_size_are_all_given_and_none_is_empty(shape, sizes):
    counts = partition_for(shape, sizes)
    assert sum(counts) == shape.layers
    assert min(counts) >= 1
    assert len(counts) == len(sizes)


@LAWS
@given(questions)
def test_low_likely_high_are_in_order(ask):
    bill = bills(ask)[0]
    assert all(part.low <= part.likely <= part.high for part in bill.parts)
    assert bill.kv[0] <= bill.kv[1] <= bill.kv[2]
    plan = verdict.plan(ask)
    assert plan.tokens[0] <= plan.tokens[1] <= plan.tokens[2]


@LAWS
@given(questions)
def test_the_verdict_agrees_with_its_figures(ask):
    plan = verdict.plan(ask)
    assert (plan.verdict == "no") == (plan.margin < 0)
    assert (plan.verdict == "no") == (plan.bill.kv[1] < plan.bill.kv_needed)
    assert plan.binding.endswith(".")


@LAWS
@given(shapes, st.floats(0.1, 500.0), st.integers(16, 1 << 20), st.sampled_from(["bf16", "fp8"]))
def test_what_is_said_to_fit_fits(shape, room_gib, length, kv_dtype):
    room = kv.room(shape, kv_dtype, room_gib * GIB, length)
    whole = int(room.concurrency)
    slack = 1.001 if shape.window_layers or shape.is_hybrid else 1.0
    assert (
        whole * kv.request_bytes(shape, kv_dtype, length) <= room_gib * GIB * slack
        or kv.request_bytes(shape, kv_dtype, length) > room_gib * GIB
        or length % room.block_tokens
    )


@LAWS
@given(questions)
def test_the_nearest_change_fits(ask):
    assume(verdict.plan(ask).verdict == "no")
    for change in search.changes(ask, limit=3):
        again = verdict.plan(change.plan.ask)
        assert again.verdict != "no"
        assert again == change.plan


@LAWS
@given(questions, st.sampled_from([1, 2, 4]))
def test_a_plan_that_fits_still_fits_when_its_own_configuration_is_asked(ask, tp):
    assume(tp in possible_tp(ask.shape, 4, ask.weights))
    ask = ask.with_(
        cut=Cut(tp),
        cards=ask.cards * tp,
        requests=1,
        lora=Slots(ask.lora.slots, ask.lora.rank, ask.lora.targets),
    )
    plan = verdict.plan(ask)
    assume(plan.verdict != "no")
    name = models.by_name(ask.shape.name).hf_id
    reach = rope.reach(ask.shape, plan.ask.context)
    assume(reach.overrides or plan.ask.context <= ask.shape.max_positions)
    tree = yaml.safe_load(yaml_text(document(plan.ask, name, 1, reach)))
    engine = question_file.engines(tree, ask.cards, None, ask.version)[0]
    again = verdict.plan(engine.ask)
    assert again.verdict != "no", (plan.binding, again.binding)
    assert abs(again.margin - plan.margin) < 0.05 * GIB


@LAWS
@given(questions)
def test_the_gate_agrees_with_the_plan(ask):
    ask = ask.with_(requests=1, lora=Slots(), version="0.32.0", weights="bf16")
    reach = rope.reach(ask.shape, ask.context)
    assume(reach.overrides or ask.context <= ask.shape.max_positions)
    told = gate(
        models.by_name(ask.shape.name).config,
        document(verdict.plan(ask).ask, "m", 1, reach)["engine"],
        cards=ask.cards,
    )
    assert (told.verdict == "no") == (
        verdict.plan(ask.with_(utilisation=round(ask.utilisation, 4))).verdict == "no"
    )
    assert told.sentence.endswith(".")


@LAWS
@given(questions, st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_a_search_ends_in_changes_that_fit_and_never_in_an_error(ask, count):
    for cut in topologies.cuts(ask.shape, ask.weights, count):
        question = ask.with_(cards=ask.cards * cut.cards, cut=cut)
        assert all(change.plan.verdict != "no" for change in search.changes(question, limit=2))


@LAWS
@given(st.text(max_size=60))
def test_no_name_of_a_model_or_card_breaks_it(text):
    for look in (models.by_name, card):
        try:
            look(text)
        except ConsiliumError as err:
            assert (err.code, len(err.public()) < 300) == ("invalid_request", True)  # noqa: PT017  it may also not be raised


ODD = [
    None,
    0,
    -1,
    2,
    7,
    1.5,
    1e9,
    10**30,
    float("nan"),
    float("inf"),
    "x",
    "",
    [],
    {},
    [1],
    {"a": 1},
    True,
    False,
]
EXTRA = [
    "quantization_config",
    "rope_parameters",
    "rope_scaling",
    "layer_types",
    "vision_config",
    "mlp_only_layers",
    "num_experts",
    "first_k_dense_replace",
]


@LAWS
@given(st.sampled_from(NAMES), st.data())
def test_no_edited_config_breaks_the_answers(name, data):
    """A config.json of a known model with up to three odd values is planned, or refused in one sentence."""
    config = dict(models.by_name(name).config)
    for key in data.draw(st.lists(st.sampled_from([*config, *EXTRA]), min_size=1, max_size=3)):
        config[key] = data.draw(st.sampled_from(ODD))
    for ask in (
        lambda: explain.lines(config),
        lambda: explain.summary(config),
        lambda: edits.judge(models.by_name(name).config, config),
    ):
        try:
            ask()
        except ConsiliumError as err:
            assert err.code == "invalid_request"  # noqa: PT017  it may also not be raised
    assert gate(config, {"max_model_len": 4096}, cards=["RTX 4090"]).sentence


@LAWS
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "hidden_size",
                        "num_hidden_layers",
                        "num_attention_heads",
                        "vocab_size",
                        "text_config",
                        "head_dim",
                        "layer_types",
                        "rope_parameters",
                        "vision_config",
                        "num_experts",
                        "mlp_only_layers",
                    ]
                ),
                inner,
                max_size=8,
            )
        ),
        max_leaves=20,
    )
)
def test_no_config_breaks_the_shape(data):
    from consilium.planner.shapes import from_config

    try:
        shape = from_config(data)
    except ConsiliumError as err:
        assert err.code == "invalid_request"  # noqa: PT017  it may also not be raised
    else:
        assert shape.params() > 0
