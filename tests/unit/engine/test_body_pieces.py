"""Pieces of a long field: together they show every entry where it stands, and none is long."""

from collections.abc import Iterator
from typing import Any

import pytest

from consilium.engine.body_pieces import ENTRIES, NUMBERS, groups, is_long, pieces

NAMES = frozenset({"role", "content", "type"})
MARKS = [{"mark": number} for number in range(100)]
FIELDS = {
    "a list": MARKS,
    "a list in a record in a list": [{"role": "user", "content": MARKS}],
    "many lists": [{"role": "user", "content": MARKS[at : at + 10]} for at in range(0, 100, 10)],
    "lists in lists": [MARKS[:50], MARKS[50:]],
    "two long lists of one record": [{"content": MARKS[:50], "other": MARKS[50:]}],
    "a wide record": [
        {"role": "user", "content": MARKS[:50], **{f"k{at}": MARKS[at : at + 1] for at in range(50, 100)}, **{f"x{at}": 1 for at in range(300)}}
    ],
    "a table of lists": {f"k{at}": MARKS[at : at + 20] for at in range(0, 100, 20)},
}  # fmt: skip


def found(value: Any, loc: tuple[str | int, ...] = ()) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Yield (mark, where it stands)."""
    if isinstance(value, dict) and "mark" in value:
        yield value["mark"], loc
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from found(item, (*loc, name))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from found(item, (*loc, at))


@pytest.mark.parametrize("kind", FIELDS)
def test_together_they_show_every_entry_where_it_stands(kind: str) -> None:
    value = FIELDS[kind]
    shown: set[tuple[int, tuple[Any, ...]]] = set()
    for piece in pieces(value, NAMES):
        assert len(list(found(piece.value))) <= 5 * ENTRIES
        shown |= {(mark, piece.place(loc)) for mark, loc in found(piece.value)}
    assert set(found(value)) <= shown


def test_a_record_keeps_what_it_must_have() -> None:
    for kind in ("a list in a record in a list", "a wide record"):
        for piece in pieces(FIELDS[kind], NAMES):
            assert piece.value[0]["role"] == "user"


def test_what_is_short_is_one_piece() -> None:
    short = [{"role": "user", "content": "x" * 10_000}] * ENTRIES
    assert [piece.value for piece in pieces(short, NAMES)] == [short]


def test_numbers_come_in_large_pieces_after_the_first() -> None:
    sizes = [len(piece.value) for piece in pieces([1] * 2000, NAMES)]
    assert sizes == [ENTRIES, NUMBERS, NUMBERS, NUMBERS, 2000 - ENTRIES - 3 * NUMBERS]
    assert len(list(pieces([[1] * 100, [2] * 100], NAMES))) == 4


def test_groups_together_are_the_list_and_an_entry_that_is_long_stands_alone() -> None:
    value = [1, "a", {"content": MARKS}, [], {}, *["x"] * 40]
    taken = list(groups(value))
    assert [item for _, some in taken for item in some] == value
    assert [some for _, some in taken if {"content": MARKS} in some] == [[{"content": MARKS}]]


def test_to_look_at_a_huge_field_costs_nothing() -> None:
    huge = [{"content": [{}] * 1_000_000}] * 100
    assert is_long(huge)
    assert next(pieces(huge, NAMES)).value == [{"content": [{}] * ENTRIES}]
