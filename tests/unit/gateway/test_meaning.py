"""Who is nearest to a text, and when nobody is."""

from dataclasses import replace

import numpy as np
import pytest

from consilium.gateway.meaning import (
    BRIEF,
    LEAD,
    LOOKED_AT,
    SHARE,
    USUAL,
    Common,
    Prototypes,
    Rules,
    brief_words,
    looked_at,
    nearest,
)
from consilium.gateway.neutral_questions import FOLLOW_UPS, NEUTRAL, SMALL_TALK

RULES = Rules(threshold=0.5, margin=0.05, sticky_margin=0.2)


def vector(*numbers):
    return np.array(numbers, np.float32)


def prototypes(neutral=None):
    return Prototypes.of(
        {
            "sport": (np.array([[1, 0, 0], [0.9, 0.1, 0]], np.float32), ["running", "a race"]),
            "law": (np.array([[0, 1, 0]], np.float32), ["contracts"]),
            "empty": (np.zeros((0, 3), np.float32), []),
        },
        neutral,
    )


def test_the_nearest_prototype_decides_and_is_named():
    found = nearest(vector(0.9, 0.12, 0), prototypes(), RULES)
    assert found.name == "sport"
    assert found.candidates[0].text == "a race"
    assert [each.name for each in found.candidates] == ["sport", "law"]


def test_the_score_is_half_the_nearest_prototype_and_half_all_of_them_together():
    rows = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    both = Prototypes.of({"a": (rows, ["x", "y"])})
    score = nearest(vector(1, 0, 0), both, RULES).candidates[0].score
    assert score == pytest.approx((1 + np.sqrt(0.5)) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (vector(0.1, 0.1, 1), "answers from 0.5"),
        (vector(0.96, 1, 0), "nearer to each other"),
        (vector(0, 0, 0), "answers from 0.5"),
    ],
)
def test_who_is_not_clearly_meant_does_not_answer(asked, why):
    found = nearest(asked, prototypes(), RULES)
    assert not found.name
    assert why in found.why


def test_what_questions_have_in_common_is_taken_off():
    """All vectors lie close together (first number), in two languages (second): only the third and fourth say what is asked."""
    subjects = {
        "sport": np.array([[10, 2, 1, 0], [10, -2, 1, 0]], np.float32),
        "law": np.array([[10, 2, 0, 1], [10, -2, 0, 1]], np.float32),
    }
    neutral = np.array([[10, 2, 0, 0], [10, -2, 0, 0], [10, 2, 0, 0.1], [10, -2, 0, 0.1]])
    told = {name: (rows, ["en", "ru"]) for name, rows in subjects.items()}
    raw = Prototypes.of(told)
    plain = Prototypes.of(told, neutral.astype(np.float32))
    off = vector(10, 2, 0.05, 0)
    assert min(each.score for each in nearest(off, raw, RULES).candidates) > 0.9
    for language in (2, -2):
        found = nearest(vector(10, language, 0.8, 0), plain, RULES)
        assert (found.name, found.candidates[0].score > 0.9) == ("sport", True)
        assert found.candidates[1].score < 0.1


def test_neutral_questions_that_are_all_alike_have_no_axis():
    common = Common.of(np.ones((3, 4), np.float32))
    assert not common.axis.any()
    assert common.taken_off(np.ones((1, 4), np.float32)).shape == (1, 4)


def test_a_conversation_keeps_its_adapter_until_another_is_clearly_ahead():
    almost = vector(0.72, 0.66, 0)
    assert nearest(almost, prototypes(), RULES).name == "sport"
    assert nearest(almost, prototypes(), RULES, present="law").name == "law"
    assert nearest(vector(1, 0.3, 0), prototypes(), RULES, present="law").name == "sport"


def test_a_conversation_keeps_its_adapter_somewhat_below_its_threshold():
    vague = vector(0.4, 0, 0.9)
    assert not nearest(vague, prototypes(), RULES).name
    assert nearest(vague, prototypes(), RULES, present="sport").name == "sport"
    assert not nearest(vector(0.2, 0, 1), prototypes(), RULES, present="sport").name


def told(*, sport=0.0, law=0.0, household=0.0, other=0.0, language=2):
    """Return a vector: all lie close together (first number), in two languages (second); the others say what is asked."""
    return vector(10, language, sport, law, household, other)


def adapters_and_everyday(**more):
    """Return two adapters among everyday questions of the household, and follow-ups that are like nothing else."""
    neutral = [
        told(household=h, language=language) for h in (1, 0.8, -1, -0.8) for language in (2, -2)
    ]
    follow_ups = [told(other=other) for other in (1, 0.9, 0.8)]
    subjects = {"sport": told(sport=1), "law": told(law=1)} | more
    return Prototypes.of(
        {name: (row[None, :], [name]) for name, row in subjects.items()},
        np.stack(neutral),
        np.stack(follow_ups),
    )


def test_a_text_that_is_like_everyday_questions_needs_more():
    made = adapters_and_everyday()
    near, far = told(sport=0.8, household=0.6), told(sport=0.8, law=0.6)
    found, first = nearest(near, made, RULES), nearest(near, made, RULES).candidates[0]
    assert first.threshold == pytest.approx(0.5 + SHARE * (0.6 - USUAL), abs=1e-3)
    assert found.name == "sport"
    strict = replace(RULES, threshold=0.7)
    found = nearest(near, made, strict)
    assert not found.name
    assert "0.200 more for being like everyday questions" in found.why
    assert nearest(far, made, strict).name == "sport"
    assert nearest(far, made, strict).candidates[0].threshold == pytest.approx(0.6, abs=1e-3)


def test_everyday_questions_that_are_an_adapters_own_hold_no_text_back():
    made = adapters_and_everyday(household=told(household=1))
    first = nearest(told(household=0.8, sport=0.6), made, RULES).candidates[0]
    assert first.name == "household"
    assert first.threshold == pytest.approx(0.5 - SHARE * USUAL, abs=1e-3)


def test_small_talk_raises_what_is_needed_though_an_adapter_is_somewhat_like_it():
    rows = {"sport": (told(sport=1)[None, :], ["sport"])}
    neutral = np.stack([told(household=h, language=x) for h in (1, -1) for x in (2, -2)])
    for like, more in ((0.4, SHARE * (1 - USUAL)), (0.6, -SHARE * USUAL)):
        row = told(sport=like, other=np.sqrt(1 - like**2))
        made = Prototypes.of(rows, neutral, small_talk=np.stack([row] * 3))
        first = nearest(row, made, RULES).candidates[0]
        assert first.score == pytest.approx(like, abs=1e-3)
        assert first.more == pytest.approx(more, abs=1e-3)


def test_a_word_or_two_need_more_unless_they_name_the_subject():
    made, near = adapters_and_everyday(), told(sport=0.8, law=0.6)
    rules = Rules(threshold=0.75)
    assert nearest(near, made, rules, brief=brief_words("one two three")).name == "sport"
    assert nearest(near, made, rules, brief=brief_words("Sport?")).name == "sport"
    found = nearest(near, made, rules, brief=brief_words("a race"))
    assert not found.name
    assert found.candidates[0].threshold == pytest.approx(0.75 + BRIEF)
    assert "0.100 more for being so short" in found.why


def test_words_of_a_text_that_has_one_or_two():
    assert brief_words(" Law? ") == {"law"}
    assert brief_words("/exit now") == {"exit", "now"}
    assert brief_words("?") == {"?"}
    assert not brief_words("recipe for soup")


def test_without_everyday_questions_exactly_the_threshold_is_needed():
    found = nearest(vector(0.1, 0.1, 1), prototypes(), RULES)
    assert found.why.endswith("answers from 0.500")


def test_a_follow_up_stays_with_who_has_the_conversation():
    made = adapters_and_everyday()
    follows, stands_alone = told(other=0.8, sport=0.6), told(household=0.8, sport=0.6)
    assert nearest(follows, made, RULES).name == "sport"
    kept = nearest(follows, made, RULES, present="sport", words=9)
    assert kept.name == "sport"
    vague = told(other=1, sport=0.2)
    kept = nearest(vague, made, RULES, present="law", words=9)
    assert kept.name == "law"
    assert "reads as a follow-up" in kept.why
    assert not nearest(stands_alone, made, RULES, present="law", words=9).name


def test_a_follow_up_goes_to_another_adapter_only_when_that_is_far_ahead():
    made = adapters_and_everyday()
    little, far = told(other=0.7, sport=0.55, law=0.4), told(other=0.5, sport=0.85)
    rules = Rules(threshold=0.2)
    assert nearest(little, made, rules, present="law", words=9).name == "law"
    assert nearest(far, made, rules, present="law", words=9).name == "sport"
    assert LEAD > 0.55 - 0.4


def test_the_plain_model_keeps_a_follow_up_too():
    made, rules = adapters_and_everyday(), Rules(threshold=0.4)
    little, far = told(other=0.9, sport=0.45), told(other=0.5, sport=0.85)
    assert nearest(little, made, rules).name == "sport"
    kept = nearest(little, made, rules, present="", words=9)
    assert not kept.name
    assert "the plain model goes on" in kept.why
    assert nearest(far, made, rules, present="", words=9).name == "sport"


def test_a_text_that_stands_alone_lets_go_of_a_conversation_at_once():
    made, rules = adapters_and_everyday(), Rules(threshold=0.4)
    asked = told(sport=0.7, law=0.66)
    assert nearest(asked, made, rules, present="law", words=9).name == "sport"
    assert nearest(asked, made, replace(rules, sticky_margin=0.1), present="law", words=9).name == (
        "law"
    )


def test_a_short_text_leaves_a_conversation_where_it_is():
    away = vector(0.2, 0, 1)
    assert nearest(away, prototypes(), RULES, present="sport", words=3).name == "sport"
    assert not nearest(away, prototypes(), RULES, words=3).name


def test_an_adapter_that_is_gone_holds_no_conversation():
    assert not nearest(vector(0.2, 0, 1), prototypes(), RULES, present="gone", words=1).name


def test_the_present_adapter_is_found_among_many():
    rows = np.eye(40, dtype=np.float32)
    many = Prototypes.of({f"a{n}": (rows[n : n + 1], [f"text {n}"]) for n in range(40)})
    asked = rows[:20].sum(axis=0) - rows[39] / 100
    found = nearest(asked, many, Rules(0.1, 0, 0.4), present="a39")
    assert found.name == "a39"
    assert len(found.candidates) == 5


def test_own_thresholds_and_no_adapters():
    strict = Rules(0.5, 0.05, 0.2, {"sport": 0.999})
    assert not nearest(vector(0.9, 0.3, 0), prototypes(), strict).name
    assert not nearest(vector(1, 0, 0), Prototypes.of({}), RULES).name


def test_of_a_long_text_beginning_and_end_are_looked_at():
    text = "What is this? " + "x" * 5000 + " Explain."
    cut = looked_at(text)
    assert len(cut) == LOOKED_AT + 1
    assert cut.startswith("What is this?")
    assert cut.endswith("Explain.")
    assert looked_at("short") == "short"


@pytest.mark.parametrize("texts", [NEUTRAL, FOLLOW_UPS, SMALL_TALK])
def test_neutral_texts_are_in_two_languages_each_once(texts):
    russian = [text for text in texts if any("а" <= letter <= "я" for letter in text.lower())]
    assert len(russian) == len(texts) / 2
    assert len(set(texts)) == len(texts)


def test_among_very_many_only_the_leading_ones_are_compared_in_full():
    dice = np.random.default_rng(3)
    subjects = dice.normal(size=(900, 40)) @ dice.normal(size=(40, 192))
    rows = [subjects[n] + dice.normal(size=(1 + n % 5, 192)) for n in range(900)]
    told = {f"a{n}": (each.astype(np.float32), ["text"] * len(each)) for n, each in enumerate(rows)}
    many = Prototypes.of(told)
    assert many.outline is not None
    all_of_them = replace(many, outline=None)
    for n in range(0, 900, 30):
        asked = (subjects[n] + dice.normal(size=192)).astype(np.float32)
        found, exact = (nearest(asked, each, RULES, present="a7") for each in (many, all_of_them))
        assert found.name == exact.name == f"a{n}"
        assert found.candidates[0].score == pytest.approx(exact.candidates[0].score, abs=1e-5)
    kept = nearest(rows[7][0].astype(np.float32), many, RULES, present="a7")
    assert kept.name == "a7"
