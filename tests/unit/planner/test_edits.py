"""Edits of config.json and of tokenizers."""

from __future__ import annotations

import pytest

from consilium.planner import edits, models, tokenizer_edits
from consilium.planner.figures import table

MOE = dict(models.by_name("Qwen3-30B-A3B").config)
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}


def effect(key, new, base=MOE, **also):
    found = {edit.key: edit.effect for edit in edits.judge(base, {**base, key: new, **also})}
    return found[key]


@pytest.mark.parametrize(
    ("key", "new", "told"),
    [
        ("num_experts_per_tok", 4, "legal"),
        ("num_experts_per_tok", 16, "legal"),
        ("num_experts_per_tok", 2, "harmful"),
        ("num_experts_per_tok", 129, "breaks"),
        ("num_experts_per_tok", 0, "breaks"),
        ("num_experts_per_tok", 7.5, "breaks"),
        ("num_experts", 64, "breaks"),
        ("hidden_size", 1024, "breaks"),
        ("num_attention_heads", 16, "breaks"),
        ("num_key_value_heads", 8, "breaks"),
        ("head_dim", 64, "breaks"),
        ("moe_intermediate_size", 512, "breaks"),
        ("vocab_size", 152_000, "breaks"),
        ("num_hidden_layers", 49, "breaks"),
        ("num_hidden_layers", 40, "harmful"),
        ("max_position_embeddings", 8192, "legal"),
        ("max_position_embeddings", 131_072, "harmful"),
        ("rope_theta", 5e6, "silently_wrong"),
        ("rms_norm_eps", 1e-5, "silently_wrong"),
        ("norm_topk_prob", False, "silently_wrong"),
        ("rope_scaling", YARN, "legal"),
        ("rope_scaling", {**YARN, "factor": 8.0}, "harmful"),
        ("rope_scaling", {"rope_type": "linear", "factor": 2.0}, "harmful"),
        ("tie_word_embeddings", True, "silently_wrong"),
        ("dtype", "float16", "legal"),
        ("quantization_config", {"quant_method": "awq"}, "breaks"),
        ("a_new_key", 1, "unknown"),
    ],
)
def test_effects(key, new, told):
    assert effect(key, new) == told


def test_untying_breaks_and_tying_is_silent():
    small = dict(models.by_name("Qwen3-0.6B").config)
    assert effect("tie_word_embeddings", False, small) == "breaks"


def test_yarn_makes_more_positions_legal():
    assert effect("max_position_embeddings", 131_072, rope_scaling=YARN) == "legal"


def test_the_worst_comes_first_and_equal_files_say_nothing():
    assert edits.judge(MOE, MOE) == []
    found = edits.judge(
        MOE, {**MOE, "max_position_embeddings": 8192, "hidden_size": 1, "rope_theta": 1.0}
    )
    assert [edit.effect for edit in found] == ["breaks", "silently_wrong", "legal"]


def test_every_row_has_a_sentence_a_source_and_a_known_condition():
    for row in table("edits")["rows"]:
        assert row["sentence"].endswith(".")
        assert row["source"]
        assert row["when"] in edits._CONDITIONS


def test_vision_models_are_edited_inside_their_text_config():
    config = dict(models.by_name("Qwen3-VL-8B").config)
    assert edits.refusal_of_overrides(config, {"hidden_size": 1}) is not None
    assert edits.refusal_of_overrides(config, {"max_position_embeddings": 8192}) is None


def tokens(**ids):
    return tokenizer_edits.vocabulary({"model": {"vocab": ids}, "added_tokens": []})


def test_tokens_beyond_the_table_break():
    shape = models.by_name("Qwen3-8B").shape
    found = tokenizer_edits.check(tokens(a=0, b=shape.vocab), shape)
    assert found[0].effect == "breaks"
    assert str(shape.vocab) in found[0].sentence


def test_moved_reused_lost_and_new_tokens_are_told():
    shape, old = models.by_name("Qwen3-8B").shape, tokens(a=0, b=1, c=2)
    assert [f.effect for f in tokenizer_edits.check(tokens(a=0, b=1, c=2), shape, old)] == [
        "legal",
        "legal",
    ]
    assert tokenizer_edits.check(tokens(a=1, b=0, c=2), shape, old)[0].effect == "silently_wrong"
    assert tokenizer_edits.check(tokens(a=0, a2=0), shape)[0].effect == "silently_wrong"
    said = " ".join(
        f.sentence for f in tokenizer_edits.check(tokens(a=0, b=1, new=2, newer=9), shape, old)
    )
    assert "took the id" in said
    assert "untrained" in said
