"""Profiles: which one a turn gets, and what it changes in the request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.full_profile import FULL

from consilium.gateway.config import Profile
from consilium.gateway.profiles import BUILT_IN, apply, choose, pick
from consilium.kernel.errors import ConsiliumError

NO_KEYS = Profile()


def test_the_request_comes_before_the_role_and_the_role_before_nothing():
    mine = {"calm": Profile(temperature=0.1)}
    assert choose("calm", "think", "", profiles=mine).why == "the request names it"
    assert choose("calm", "think", "", profiles=mine).profile.temperature == 0.1
    assert choose(None, "think", "", profiles=mine).name == "think"
    assert choose(None, None, "Докажи теорему пошагово", profiles=mine).name == "dialog"


def test_a_configured_profile_replaces_a_built_in_one():
    assert choose("think", None, "", profiles={"think": NO_KEYS}).profile is NO_KEYS
    assert choose(None, None, "", profiles={"dialog": Profile(top_k=5)}).profile.top_k == 5


@pytest.mark.parametrize(
    ("asked", "near"), [("thnk", "think"), ("Code", "code"), ("dialogue", "dialog")]
)
def test_an_unknown_profile_is_told_the_nearest(asked, near):
    with pytest.raises(ConsiliumError) as caught:
        choose(asked, None, "", profiles={})
    assert caught.value.code == "invalid_request"
    assert f"{near!r}" in caught.value.public()
    assert "consilium.profile" in caught.value.public()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Hello, how are you?", "dialog"),
        ("Привет. Как прошёл день?", "dialog"),
        ("Tell me about the French revolution.", "dialog"),
        ("Расскажи о Марке Аврелии.", "dialog"),
        ("What is the code of Hammurabi?", "dialog"),
        ("", "dialog"),
        ("What does this do?\n```\nx = 1\n```", "code"),
        ("Write a short function that reverses a list", "code"),
        ("Fix the bug in my program please", "code"),
        ("Напиши функцию, которая сортирует список", "code"),
        ("Как открыть файл на Python", "code"),
        ("def f(x):\n    return x", "code"),
        ("Explain step by step why the sky is blue", "think"),
        ("Объясни пошагово, почему небо синее", "think"),
        ("Подумай как следует: кто прав?", "think"),
        ("Prove that there are infinitely many primes", "think"),
        ("Докажи, что простых чисел бесконечно много", "think"),
        ("Реши уравнение x^2 = 9", "think"),
        ("solve x^2 + 3 = 12", "think"),
        ("12 * (3) + 4 * 5", "think"),
        ("Почему? Зачем? Кто виноват? " + "слово " * 300, "think"),
        ("слово " * 300, "dialog"),
    ],
)
def test_the_rule(text, name):
    picked, why = pick(text)
    assert picked == name, why
    chosen = choose(None, "auto", text, profiles={})
    assert (chosen.name, chosen.why) == (name, f"auto: {why}")


def test_cues_at_both_ends_of_a_long_text_are_seen():
    assert pick("x" * 9000 + " пошагово")[0] == "think"
    assert pick("пошагово " + "x" * 9000)[0] == "think"


@given(st.text(max_size=300))
def test_any_text_gets_a_built_in_profile(text):
    assert pick(text)[0] in BUILT_IN


def test_dialog_changes_nothing():
    body = {"messages": [], "temperature": None}
    for route in ("chat", "completions", "responses", "tokenize", "embeddings"):
        assert apply(BUILT_IN["dialog"], body, route) is body


def test_a_profile_sets_what_the_caller_did_not():
    assert apply(FULL, {"messages": []}, "chat") == {
        "messages": [],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 10,
        "min_p": 0.05,
        "presence_penalty": 1.0,
        "max_tokens": 99,
        "thinking_token_budget": 64,
        "chat_template_kwargs": {"enable_thinking": True},
    }


SENT = {
    "temperature": 0,
    "top_p": 1,
    "top_k": -1,
    "min_p": 0,
    "presence_penalty": 0,
    "max_tokens": 1,
    "thinking_token_budget": 0,
}


@given(st.sets(st.sampled_from(sorted(SENT))))
def test_what_the_caller_sent_wins(keys):
    sent = {key: SENT[key] for key in keys}
    before = dict(sent)
    made = apply(FULL, sent, "chat")
    assert {key: made[key] for key in keys} == sent == before


def test_max_completion_tokens_counts_as_a_length():
    assert "max_tokens" not in apply(FULL, {"max_completion_tokens": 5}, "chat")
    made = apply(FULL, {"input": "x"}, "responses")
    assert made["max_output_tokens"] == 99
    assert "max_tokens" not in made
    assert "thinking_token_budget" not in made


def test_template_words_are_merged():
    made = apply(FULL, {"chat_template_kwargs": {"lang": "ru"}}, "chat")
    assert made["chat_template_kwargs"] == {"lang": "ru", "enable_thinking": True}
    off = apply(FULL, {"chat_template_kwargs": {"enable_thinking": False}}, "chat")
    assert off["chat_template_kwargs"] == {"enable_thinking": False}
    assert "thinking_token_budget" not in off


def test_no_budget_when_thinking_is_off():
    assert "thinking_token_budget" not in apply(
        Profile(thinking=False, thinking_budget=64), {}, "chat"
    )
    assert apply(Profile(thinking_budget=64), {}, "chat") == {"thinking_token_budget": 64}


def test_tokenize_gets_the_template_words_only_and_embeddings_nothing():
    assert apply(FULL, {"messages": []}, "tokenize") == {
        "messages": [],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    assert apply(FULL, {"input": "x"}, "embeddings") == {"input": "x"}


def test_completions_have_no_template():
    assert "chat_template_kwargs" not in apply(FULL, {"prompt": "x"}, "completions")
