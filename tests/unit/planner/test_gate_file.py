"""Every engine of a configuration against the cards or the RAM, given out in order."""

from __future__ import annotations

from consilium.planner.cards import card
from consilium.planner.figures import GIB
from consilium.planner.fit import gates

BIG, HOME = card("RTX PRO 6000"), card("RTX 3090")


def verdicts(tree, *cards, ram=64 * GIB):
    return [(name, gate.verdict) for name, gate in gates(tree, cards=cards, ram_bytes=ram)]


def test_the_core_alone():
    assert verdicts({"model": "Qwen/Qwen3-8B", "engine": {"max_model_len": 16_384}}, BIG) == [("core", "fits")]
    assert verdicts({"model": "Qwen/Qwen3-32B", "engine": {"max_model_len": 16_384}}, HOME) == [("core", "no")]


def test_replicas_on_unequal_cards_are_ruled_by_the_smallest():
    assert verdicts({"model": "Qwen/Qwen3-14B", "engine": {"max_model_len": 16_384}}, BIG, HOME) == [("core", "no")]


def test_core_and_executors_take_cards_in_order():
    tree = {
        "model": "Qwen/Qwen3-32B",
        "topology": {"kind": "hybrid", "replicas": 1},
        "engine": {"max_model_len": 16_384, "max_num_seqs": 64},
        "executors": {
            "hand": {"kind": "engine", "model": "Qwen/Qwen3-8B", "engine": {"quantization": "awq", "max_model_len": None}},
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
