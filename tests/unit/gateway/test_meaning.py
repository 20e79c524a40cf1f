"""Who is nearest to a text, and when nobody is."""

from dataclasses import replace

import numpy as np
import pytest

from consilium.gateway.meaning import (
    LOOKED_AT,
    Common,
    Prototypes,
    Rules,
    looked_at,
    nearest,
)
from consilium.gateway.neutral_questions import NEUTRAL

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


def test_neutral_questions_are_in_two_languages_each_once():
    russian = [text for text in NEUTRAL if any("а" <= letter <= "я" for letter in text.lower())]
    assert len(russian) == len(NEUTRAL) / 2
    assert len(set(NEUTRAL)) == len(NEUTRAL)


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
