"""Control tokens are found and plain text is not; estimates err upwards."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilium.engine.ports import ExecutorInfo
from consilium.engine.vocabulary import (
    ENGLISH,
    MOST_TOKENS,
    RUSSIAN,
    Vocabulary,
    control_tokens,
    measured,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}<think>"
)


def test_those_of_the_template_come_first_then_the_special_ones() -> None:
    special, added = (
        ["<|endoftext|>", "<|im_end|>", "<s>"],
        ["<think>", "<tool_call>", "  ", "<|im_end|>"],
    )
    assert control_tokens(special, added, CHATML) == (
        "<think>", "<|im_end|>", "<|im_start|>", "<s>", "<|endoftext|>",
    )  # fmt: skip


@pytest.mark.parametrize(
    "token", ["<s>", "[INST]", "[/INST]", "<｜User｜>", "<unk>", "<|vision_start|>", "{start}"]
)
def test_what_looks_like_a_control_token_is_one(token: str) -> None:
    assert control_tokens([token], [], "") == (token,)


@pytest.mark.parametrize(
    "token", ["", "!", "\n\n", "   ", "the", "<", "<>", "< a >", "<" + "x" * 80 + ">"]
)
def test_text_among_the_special_tokens_stays_text(token: str) -> None:
    assert control_tokens([token], [token], token) == ()


def test_their_number_is_bounded_and_the_templates_are_kept() -> None:
    found = control_tokens([f"<unused{i}>" for i in range(6000)], [], "<|zz|>")
    assert len(found) == MOST_TOKENS
    assert found[0] == "<|zz|>"


def test_a_tokenizer_of_bytes() -> None:
    seen = measured(lambda text: len(text.encode()), special=(), added=(), template="")
    assert seen.special_tokens == ()
    assert 0.9 < seen.characters_per_token <= 1.0
    assert 0.3 < seen.characters_per_token_beyond_ascii < 0.6


@pytest.mark.parametrize("count", [lambda _: 0, lambda text: len(text) * 9])
def test_an_odd_tokenizer_gives_figures_that_can_be_divided_by(count) -> None:  # type: ignore[no-untyped-def]
    seen = measured(count, special=(), added=(), template="")
    assert seen.characters_per_token > 0
    assert seen.characters_per_token_beyond_ascii > 0


def words(text: str) -> int:
    """Count as a tokenizer of pieces of words does."""
    return sum(-(-len(word) // 4) for word in re.findall(r"\w+|[^\w\s]", text))


def info(seen: Vocabulary) -> ExecutorInfo:
    return ExecutorInfo(
        "x", "engine", "m",
        characters_per_token=seen.characters_per_token, characters_per_token_beyond_ascii=seen.characters_per_token_beyond_ascii,
    )  # fmt: skip


@pytest.mark.parametrize("count", [words, lambda text: len(text.encode()), len])
def test_the_samples_themselves_are_estimated_well(count) -> None:  # type: ignore[no-untyped-def]
    seen = info(measured(count, special=(), added=(), template=""))
    for text in (ENGLISH, RUSSIAN, ENGLISH + RUSSIAN):
        assert count(text) * 0.98 <= seen.estimate_tokens(text) <= count(text) * 1.35


@given(st.text(max_size=200))
def test_an_estimate_is_a_number_for_any_text(text: str) -> None:
    assert info(Vocabulary()).estimate_tokens(text) >= len(text) / 4


def test_nothing_has_no_tokens() -> None:
    assert ExecutorInfo("x", "remote", "m").estimate_tokens("") == 0
