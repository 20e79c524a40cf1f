"""Who is nearest to a text, and when nobody is."""

import numpy as np
import pytest

from consilium.gateway.meaning import Prototypes, Rules, nearest

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


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (vector(0.1, 0.1, 1), "answers from 0.5"),
        (vector(0.85, 1, 0), "nearer to each other"),
    ],
)
def test_who_is_not_clearly_meant_does_not_answer(asked, why):
    found = nearest(asked, prototypes(), RULES)
    assert not found.name
    assert why in found.why


def test_questions_of_nobody_abstain():
    neutral = np.array([[1, 0.2, 0]], np.float32)
    found = nearest(vector(1, 0.1, 0), prototypes(neutral), RULES)
    assert not found.name
    assert "nobody" in found.why


def test_a_conversation_keeps_its_adapter_until_another_is_clearly_ahead():
    almost = vector(0.75, 0.66, 0)
    assert nearest(almost, prototypes(), RULES, present="law").name == "law"
    assert nearest(vector(1, 0.3, 0), prototypes(), RULES, present="law").name == "sport"


def test_own_thresholds_and_no_adapters():
    strict = Rules(0.5, 0.05, 0.2, {"sport": 0.999})
    assert not nearest(vector(0.9, 0.3, 0), prototypes(), strict).name
    assert not nearest(vector(1, 0, 0), Prototypes.of({}), RULES).name
