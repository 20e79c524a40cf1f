"""Which subjects a domain text lists, and that sentences are left whole."""

import pytest

from consilium.gateway.subjects import MOST, subjects


@pytest.mark.parametrize(
    ("domain", "found"),
    [
        (
            "Recipes, baking and roasting, and how to store food.",
            ["Recipes", "baking", "roasting", "how to store food"],
        ),
        (
            "Договоры, вклады и кредиты; аренда",
            ["Договоры", "вклады", "кредиты", "аренда"],
        ),
        ("law\ntaxes\nlaw\nrent", ["law", "taxes", "rent"]),
        ("sand, candles, иней", ["sand", "candles", "иней"]),
        ("law and taxes", []),
        ("", []),
        (" , ; . ", []),
        (
            "A coach for amateurs. Helps people plan their running, cycling or swimming, and recover after a race.",
            [],
        ),
    ],
)
def test_a_list_is_told_subject_by_subject(domain, found):
    assert subjects(domain) == found


def test_a_very_long_list_is_cut():
    assert len(subjects(", ".join(f"subject {n}" for n in range(100)))) == MOST
