"""Every engine of a configuration against the cards or the RAM, given out in order."""

from __future__ import annotations

import json

from consilium.planner.cards import card
from consilium.planner.figures import GIB
from consilium.planner.gate_file import breaking_edit, gates

BIG, HOME = card("RTX PRO 6000"), card("RTX 3090")


def verdicts(tree, *cards, ram=64 * GIB):
    return [(name, gate.verdict) for name, gate in gates(tree, cards=cards, ram_bytes=ram)]


def test_the_core_alone():
    assert verdicts({"model": "Qwen/Qwen3-8B", "engine": {"max_model_len": 16_384}}, BIG) == [
        ("core", "fits")
    ]
    assert verdicts({"model": "Qwen/Qwen3-32B", "engine": {"max_model_len": 16_384}}, HOME) == [
        ("core", "no")
    ]


def test_replicas_on_unequal_cards_are_ruled_by_the_smallest():
    assert verdicts(
        {"model": "Qwen/Qwen3-14B", "engine": {"max_model_len": 16_384}}, BIG, HOME
    ) == [("core", "no")]


def test_core_and_executors_take_cards_in_order():
    tree = {
        "model": "Qwen/Qwen3-32B",
        "topology": {"kind": "hybrid", "replicas": 1},
        "engine": {"max_model_len": 16_384, "max_num_seqs": 64},
        "executors": {
            "hand": {
                "kind": "engine",
                "model": "Qwen/Qwen3-8B",
                "engine": {"quantization": "awq", "max_model_len": None},
            },
            "far": {"kind": "remote", "url": "http://x/v1", "model": "y"},
        },
    }
    assert verdicts(tree, BIG, HOME) == [("core", "fits"), ("hand", "fits")]
    assert verdicts(tree, HOME, BIG) == [("core", "no"), ("hand", "fits")]
    assert verdicts(tree, BIG) == [("core", "fits")]


def test_engines_without_a_card_share_the_ram():
    tree = {
        "model": "Qwen/Qwen3-8B",
        "topology": {"kind": "hybrid"},
        "engine": {"max_model_len": 4096},
        "executors": {"hand": {"kind": "engine", "model": "Qwen/Qwen3-8B"}},
    }
    assert verdicts(tree, ram=64 * GIB) == [("core", "fits"), ("hand", "fits")]
    assert verdicts(tree, ram=24 * GIB) == [("core", "fits"), ("hand", "no")]


def test_what_is_not_known_is_not_judged():
    assert verdicts({"model": "somebody/something"}, BIG) == []
    assert verdicts({"model": None}, BIG) == []


def test_breaking_edits_are_found_in_every_engine(tmp_path):
    tree = {
        "model": "Qwen/Qwen3-30B-A3B",
        "engine": {"hf_overrides": {"num_experts_per_tok": 16}},
        "executors": {
            "hand": {
                "kind": "engine",
                "model": "Qwen/Qwen3-8B",
                "engine": {"hf_overrides": {"head_dim": 64}},
            }
        },
    }
    key, sentence = breaking_edit(tree)
    assert key == "executors.hand.engine.hf_overrides"
    assert "head_dim 128 -> 64" in sentence
    del tree["executors"]
    assert breaking_edit(tree) is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3", "hidden_size": 64}))
    key, sentence = breaking_edit(
        {"model": "mine", "engine": {"hf_overrides": {"hidden_size": 128}}}, lambda _: tmp_path
    )
    assert key == "engine.hf_overrides"
    assert "breaks the model" in sentence


def test_a_refusal_by_free_ram_says_what_the_machine_has():
    def said(model, free, total):
        (_, found), *_ = gates(
            {"model": model, "engine": {"max_model_len": 4096}},
            cards=(),
            ram_bytes=free * GIB,
            ram_total_bytes=total * GIB,
        )
        assert found.verdict == "no"
        return found.sentence

    assert (
        "Of the 32.0 GiB of RAM of this machine 12.0 GiB are free now. With all of them it would start: end other programs."
        in said("Qwen/Qwen3-8B", 12, 32)
    )
    whole = said("Qwen/Qwen3-30B-A3B", 12, 32)
    assert "No setting helps" not in whole
    assert "End other programs as well as this. Nearest change: take a 4-bit checkpoint" in whole
    assert said("Qwen/Qwen3-235B-A22B", 12, 32).endswith(
        "No setting helps; choose a smaller model. Of the 32.0 GiB of RAM of this machine 12.0 GiB are free now."
    )


def test_slots_of_adapters_count_without_being_asked_for():
    """All experts of a 30B at rank 64 in four slots do not fit beside it; attention alone does."""
    tree = {
        "model": "Qwen/Qwen3-30B-A3B",
        "engine": {"max_model_len": 8192, "quantization": "fp8", "lora": {"max_rank": 64}},
        "adapters": {f"a{n}": {"placement": "vram"} for n in range(6)},
    }
    (_, told), *_ = gates(tree, cards=[card("RTX 5090"), card("RTX 5090")][:1], ram_bytes=64 * GIB)
    assert told.verdict == "no"
    (_, wide), *_ = gates(tree, cards=[BIG], ram_bytes=64 * GIB)
    assert wide.plan.ask.lora.slots == 8
    assert wide.plan.ask.lora.host_adapters == 16
    bare = {**tree, "adapters": {}, "engine": {**tree["engine"], "lora": None}}
    (_, off), *_ = gates(bare, cards=[BIG], ram_bytes=64 * GIB)
    assert off.plan.ask.lora.slots == 0
