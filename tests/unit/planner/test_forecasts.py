"""Cuts over cards, contexts, money, training, libraries, topologies: the rules behind the pages."""

from __future__ import annotations

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.planner import (
    kv,
    library,
    models,
    money,
    rope,
    search,
    sharding,
    speed,
    topologies,
    training,
    verdict,
    weights,
)
from consilium.planner.ask import Ask
from consilium.planner.cards import Card, card, cards, cpu, from_driver
from consilium.planner.figures import GIB
from consilium.planner.lora import Slots
from consilium.planner.sharding import Cut

MIB = 2**20


def shape(name):
    return models.by_name(name).shape


def asked(name, gpu="RTX PRO 6000 96GB", count=1, **changes):
    defaults = {"context": 131_072, "sequences": 64, "batched_tokens": 2048}
    return verdict.plan(
        Ask(
            shape=shape(name), cards=(card(gpu),) * count, cut=Cut(count), **{**defaults, **changes}
        )
    )


@pytest.mark.parametrize(
    ("told", "tokens_k", "near_k"),
    [
        (lambda: asked("Qwen3-30B-A3B"), 310, 20),
        (lambda: asked("Qwen3-30B-A3B", kv_dtype="fp8"), 621, 40),
        (lambda: asked("Qwen3-30B-A3B", lora=Slots(8, 16)), 170, 20),
        (lambda: asked("Qwen3-30B-A3B", lora=Slots(8, 16, ("attention",))), 308, 20),
        (lambda: asked("Qwen3-30B-A3B", weights="int4", engines_on_card=2), 289, 20),
        (lambda: asked("Qwen3-32B", context=65_536), 99.7, 6),
        (lambda: asked("Qwen3-32B", kv_dtype="fp8"), 199, 12),
        (lambda: asked("Qwen2.5-72B", count=2, context=65_536), 114, 8),
        (lambda: asked("Qwen2.5-72B", count=2, kv_dtype="fp8"), 228, 15),
        (lambda: asked("Qwen2.5-72B", weights="int4"), 153, 10),
        (lambda: asked("Qwen3-235B-A22B", count=4, weights="fp8"), 654, 50),
        (lambda: asked("Qwen3-235B-A22B", count=4, weights="int4"), 1240, 80),
        (lambda: asked("Qwen3-235B-A22B", count=2, weights="int4"), 297, 25),
    ],
)
def test_the_questions_that_people_ask(told, tokens_k, near_k):
    plan = told()
    assert plan.verdict != "no"
    assert plan.tokens[1] / 1000 == pytest.approx(tokens_k, abs=near_k)


def test_what_cannot_be_is_refused():
    assert asked("Qwen3-32B").verdict == "no"
    assert asked("Qwen2.5-72B", count=2).verdict == "no"
    assert asked("Qwen3-235B-A22B", count=4).verdict == "no"


def test_cuts_follow_heads_and_widths():
    assert sharding.possible_tp(shape("Qwen3-14B"), 8) == [1, 2, 4, 8]
    assert sharding.possible_tp(shape("Qwen2.5-7B"), 8) == [1, 2, 4]
    assert sharding.possible_tp(shape("SmolLM2-135M"), 8) == [1, 3]
    assert sharding.objection(shape("Qwen3-30B-A3B"), Cut(4), "int4") is not None
    assert sharding.fp8_blocks_broken(shape("Qwen3-30B-A3B"), Cut(4))
    assert sharding.objection(shape("Qwen3-8B"), Cut(2, expert_parallel=True)) is not None
    with pytest.raises(ConsiliumError, match="exclude each other"):
        verdict.plan(
            Ask(
                shape=shape("Qwen3-30B-A3B"),
                cards=(card("H100"),) * 2,
                cut=Cut(2, expert_parallel=True),
                lora=Slots(1, 16, fully_sharded=True),
            )
        )


def test_kv_heads_repeat_beyond_their_number():
    moe = shape("Qwen3-30B-A3B")
    assert kv.token_bytes(moe, "bf16", 4) == kv.token_bytes(moe, "bf16", 8)
    assert any(
        "repeated" in sentence
        for sentence in verdict.warnings(Ask(shape=moe, cards=(card("H100"),) * 8, cut=Cut(8)))
    )


def test_unequal_cards_are_ruled_by_the_smallest_and_kept_apart():
    mixed = (card("RTX 3090"), card("RTX PRO 6000"))
    plan = verdict.plan(Ask(shape=shape("Qwen3-8B"), cards=mixed, cut=Cut(2), context=4096))
    assert plan.bill.card == "RTX 3090"
    assert any("unequal" in sentence for sentence in plan.warnings)
    stages = verdict.plan(Ask(shape=shape("Qwen3-8B"), cards=mixed, cut=Cut(1, 2), context=4096))
    assert sum(stages.ask.cut.partition) == 36
    assert stages.ask.cut.partition[0] < stages.ask.cut.partition[1]
    assert (
        stages.tokens[1]
        > verdict.plan(
            Ask(
                shape=shape("Qwen3-8B"),
                cards=mixed,
                cut=Cut(1, 2, partition=(18, 18)),
                context=4096,
            )
        ).tokens[1]
    )
    assert [len(group) for group in topologies.groups(cards("2x RTX 3090, 1x RTX 4090"))] == [2, 1]


def test_a_hybrid_model_needs_a_block_for_every_sequence():
    """vllm-project/recipes#551: 1,024 sequences of Qwen3.6-27B-FP8 do not start on an H100 at 0.95, 512 do."""
    asks = [
        Ask(
            shape=shape("Qwen3.6-27B"),
            cards=(card("H100"),),
            weights="fp8",
            utilisation=0.95,
            sequences=count,
            context=32_768,
            version="0.19.1",
        )
        for count in (1024, 512)
    ]
    many, fewer = (verdict.plan(ask) for ask in asks)
    assert (many.verdict, fewer.verdict != "no") == ("no", True)
    assert "1024 sequences" in many.binding


def test_offload_and_a_fixed_kv():
    small = asked("Qwen3-32B", "RTX 4090", weights="bf16", context=4096)
    assert small.verdict == "no"
    assert (
        asked(
            "Qwen3-32B", "RTX 4090", weights="bf16", context=4096, weights_to_ram=48 * GIB
        ).verdict
        != "no"
    )
    fixed = asked("Qwen3-8B", "RTX 4090", context=4096, kv_bytes=2 * GIB)
    assert fixed.tokens[1] == 2 * GIB // (16 * 147_456) * 16
    assert asked("Qwen3-8B", "RTX 4090", context=4096, kv_bytes=12 * GIB).verdict == "no"


@pytest.mark.parametrize(
    ("name", "wanted", "way", "factor"),
    [
        ("Qwen3-8B", 32_768, "native", 1.0),
        ("Qwen3-8B", 40_960, "native", 1.0),
        ("Qwen3-8B", 65_536, "yarn", 2.0),
        ("Qwen3-8B", 131_072, "yarn", 4.0),
        ("Qwen3-8B", 262_144, "beyond", 1.0),
        ("Qwen3-30B-A3B-Instruct-2507", 262_144, "native", 1.0),
        ("Qwen3-30B-A3B-Instruct-2507", 1_000_000, "dual_chunk", 1.0),
        ("Qwen2.5-7B-Instruct-1M", 300_000, "dual_chunk", 1.0),
        ("Qwen2.5-7B-Instruct-1M", 262_144, "native", 1.0),
        ("Qwen3-Next-80B-A3B", 1_000_000, "yarn", 3.8147),
        ("Qwen3-Next-80B-A3B", 2_000_000, "beyond", 1.0),
        ("Llama-3.1-8B", 131_072, "native", 1.0),
    ],
)
def test_reach(name, wanted, way, factor):
    found = rope.reach(shape(name), wanted)
    assert (found.way, found.factor) == (way, factor)
    assert bool(found.overrides) == (way == "yarn")
    if way == "yarn":
        assert found.overrides["max_position_embeddings"] == wanted


def test_experts_touched_grow_with_the_batch_up_to_all():
    moe = shape("Qwen3-30B-A3B")
    touched = [speed.experts_touched(moe, batch) for batch in (1, 4, 16, 64, 1024)]
    assert touched[0] == pytest.approx(8)
    assert touched == sorted(touched)
    assert touched[-1] == pytest.approx(128)


def test_more_experts_cost_speed_and_batches_raise_throughput():
    from dataclasses import replace

    moe, gpu = shape("Qwen3-30B-A3B"), card("RTX PRO 6000")
    one = speed.decode(moe, gpu, Cut(), speed.Load())
    assert (
        speed.decode(replace(moe, experts_per_token=16), gpu, Cut(), speed.Load()).likely
        < one.likely
    )
    assert speed.decode(moe, gpu, Cut(), speed.Load(batch=32)).likely > 3 * one.likely
    assert speed.decode(moe, Card("24GB card", 23.6), Cut(), speed.Load()) is None


def test_a_network_between_cards_is_slower_than_nvlink():
    dense, gpu = shape("Qwen3-32B"), card("H100")
    near, far = (
        speed.decode(dense, gpu, Cut(2), speed.Load(nodes=nodes)).likely for nodes in (1, 2)
    )
    assert far < near


def test_weights_in_ram_are_held_by_the_bus():
    dense, gpu = shape("Qwen3-32B"), card("RTX 4090")
    slow = speed.decode(dense, gpu, Cut(), speed.Load(host_bytes=44 * GIB))
    assert slow.bound == "weights over the bus"
    assert slow.likely < 1


def test_cards_of_the_driver():
    assert from_driver("NVIDIA GeForce RTX 4090", 24_564 * MIB).total_gib == 23.65
    assert from_driver("NVIDIA GeForce RTX 4090", 49_140 * MIB).total_gib == pytest.approx(
        47.2, abs=0.1
    )
    assert from_driver("Unheard Of", 8192 * MIB).total_gib == pytest.approx(7.86, abs=0.01)
    assert from_driver("NVIDIA GB10", 0) == card("GB10"), "memory of the host: the name decides"
    assert from_driver("Unheard Of", 0) is None


def test_amx_reads_faster_and_two_sockets_are_honest():
    dense, load = shape("Qwen3-8B"), speed.Load(1, 4096)
    assert (
        speed.prefill_on_cpu(dense, cpu("Xeon 8480+"), load).likely
        > 2 * speed.prefill_on_cpu(dense, cpu("EPYC 9554"), load).likely
    )
    one, two = (
        speed.decode_on_cpu(dense, cpu("EPYC 9334"), load),
        speed.decode_on_cpu(dense, cpu("2x EPYC 9334"), load),
    )
    assert two.likely < one.likely
    assert two.high > one.high


def test_money_adds_up():
    plan = asked("Qwen3-30B-A3B", context=32_768)
    rates = {
        "writing, one stream": speed.decode(plan.ask.shape, plan.ask.cards[0], Cut(), speed.Load())
    }
    costs = {cost.way: cost for cost in money.compare(plan, rates, None, hours_per_day=8)}
    buy, power, rent = (
        costs["buy 1 x RTX PRO 6000 96GB"],
        costs["electricity alone"],
        costs["rent 1 x RTX PRO 6000 96GB"],
    )
    assert buy.per_month == pytest.approx((8500 + 1500) / 36 + power.per_month, abs=0.02)
    assert rent.per_month == pytest.approx(1.79 * 8 * 30.4, abs=0.02)
    assert "months" in rent.note
    assert money.compare(plan, rates, None, hours_per_day=16)[2].per_month == pytest.approx(
        2 * rent.per_month, abs=0.02
    )
    with pytest.raises(ConsiliumError, match="24"):
        money.compare(plan, rates, None, hours_per_day=25)


def test_training_needs_grow_and_methods_are_in_order():
    dense, gpu = shape("Qwen3-8B"), card("RTX PRO 6000")
    totals = {
        method: training.forecast(dense, gpu, training.Run(method=method)).total
        for method in ("qlora", "lora", "full")
    }
    assert totals["qlora"] < totals["lora"] < totals["full"]
    assert training.forecast(dense, gpu, training.Run(checkpointing=False)).total > totals["lora"]
    assert training.forecast(dense, gpu, training.Run(length=8192)).total > totals["lora"]
    full = {
        name: size
        for name, size, _ in training.forecast(dense, gpu, training.Run(method="full")).parts
    }
    assert sum(
        full[name] for name in ("weights", "32-bit copy", "gradients", "optimiser")
    ) == pytest.approx(16 * dense.params(), rel=0.001)
    assert training.forecast(dense, gpu, training.Run(method="full")).verdict == "no"
    assert (
        training.forecast(dense, gpu, training.Run(method="full", checkpointing=True)).hours[1]
        > training.forecast(dense, gpu, training.Run(method="lora")).hours[1]
    )
    assert "sleep" in training.room_beside(
        dense, card("RTX 4090"), training.Run(method="qlora"), "bf16"
    )


def test_adapter_parameters_are_exact():
    """PEFT's own count for Qwen3-8B, rank 16, all seven matrices: r x (in + out) each, 36 layers."""
    dense = shape("Qwen3-8B")
    per_layer = sum(
        a + b
        for a, b in [
            (4096, 4096),
            (4096, 1024),
            (4096, 1024),
            (4096, 4096),
            (4096, 12_288),
            (4096, 12_288),
            (12_288, 4096),
        ]
    )
    assert training.trained_params(dense, training.Run(rank=16)) == 36 * per_layer * 16
    assert training.trained_params(dense, training.Run(rank=12)) == 36 * per_layer * 12


@pytest.mark.parametrize(
    ("form", "gigabytes"), [("f32", 12.7), ("f16", 6.6), ("int8", 3.5), ("binary", 0.84)]
)
def test_a_million_pages(form, gigabytes):
    found = library.sizes(1_000_000, vectors=form)
    assert found.chunks == 3_000_000
    assert found.index / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_faiss_agrees_with_the_index_formula():
    found = library.sizes(1_000_000 // 3 + 1, dimensions=384, vectors="f32")
    assert found.index / found.chunks == pytest.approx(1685, rel=0.02)
    assert (
        library.sizes(10_000, script="cyrillic").text
        > 1.5 * library.sizes(10_000, script="latin").text
    )


def test_gguf_is_counted_by_its_size():
    assert weights.checkpoint_bytes(shape("Llama-3.1-8B"), "gguf:q4_k_m") / GIB == pytest.approx(
        4.58, rel=0.01
    )


def test_vision_towers_are_counted():
    assert shape("Qwen3-VL-8B").params() == 8_767_123_696
    config = {
        "vision_config": {
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": 3584,
            "patch_size": 14,
            "in_chans": 3,
            "window_size": 112,
        }
    }
    from consilium.planner.vision import vision_params

    assert vision_params(config) == 676_550_144


def test_suggestions_fit():
    for text in (
        "RTX 4090",
        "2x RTX PRO 6000",
        "4x RTX 3090",
        "1x RTX PRO 6000, 2x RTX 3090",
        "RTX 3060 12GB",
    ):
        found = topologies.suggest(cards(text))
        assert found, text
        assert all(seat.plan.verdict == "fits" for topology in found for seat in topology.seats)


def test_a_format_whose_groups_do_not_allow_the_cut_is_cut_otherwise():
    shape = models.by_name("Qwen3-235B-A22B").shape
    ask = Ask(shape=shape, cards=(card("RTX 4090"),) * 8, cut=Cut(8), sequences=64)
    nearest = next(search.changes(ask, limit=1), None)
    assert nearest is not None
    assert (nearest.plan.ask.weights, nearest.plan.ask.cut) == ("int4", Cut(4, 2))
    assert "tensor parallel 4 x pipeline parallel 2" in nearest.words
    assert topologies.cuts(shape, "int4", 8)[-1] == Cut(4, 2)
    assert topologies.cuts(shape, "bf16", 3) == [Cut(1), Cut(1, 3)]
