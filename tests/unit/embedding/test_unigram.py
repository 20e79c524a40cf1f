from array import array

import pytest

from consilium.embedding.unigram import Unigram, Vocabulary

PIECES = ["?", "▁", "a", "b", "ab", "▁ab", "c", "▁a"]
CHANCES = [0.0, -3.0, -4.0, -4.0, -5.0, -2.0, -4.0, -2.5]


@pytest.fixture
def unigram():
    ids = {piece: number for number, piece in enumerate(PIECES) if number}
    characters = {0x9: " ", 0x1: "", ord("A"): "a"}
    return Unigram(Vocabulary(ids, array("f", CHANCES), characters, start=90, end=91, unknown=0))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab", [5]),
        ("abab", [5, 4]),
        ("ab ab", [5, 5]),
        ("  ab\t ab", [5, 5]),
        ("Ab", [5]),
        ("aцb", [7, 0, 3]),
        ("", [1]),
        ("ab ", [5, 1]),
        ("a\x01b", [5]),
    ],
)
def test_the_likeliest_pieces(unigram, text, ids):
    assert unigram.ids(text, 20) == ([90, *ids, 91], True)


def test_a_text_that_does_not_fit_is_cut_and_told(unigram):
    assert unigram.ids("ab ab ab", 5) == ([90, 5, 5, 5, 91], True)
    assert unigram.ids("ab ab ab", 4) == ([90, 5, 5, 91], False)
    assert unigram.ids("c" * 1000, 4)[1] is False
