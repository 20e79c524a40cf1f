"""A long field of a body, shown a piece at a time: what is wrong in it is found at the price of a piece, and others are served between two pieces.

A piece is the field with every long list cut down, whatever it is inside of, so that it can be read in the field's place. Together the pieces show every entry.

    [{"role": "user", "content": [a, b, ... z]}]    ->    [{"role": "user", "content": [a, ... p]}]    [{"role": "user", "content": [q, ... z]}]

Knows lists and objects. Does not know models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

ENTRIES: Final = 16
"""Of lists, in a piece: a model of a union needs up to 3 ms to say of one entry how it is wrong, and nobody else is served meanwhile."""
NUMBERS: Final = 512
"""The same for lists of token ids, which are long and quickly read, once the first are found to be wanted."""
WIDE: Final = 64
"""Keys of an object; one with more is a table and not a record, but for the names that records have."""
_DEEP: Final = 8
"""Lists and objects inside each other that are looked into; no field that a model reads lies deeper."""

Place = str | int


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a field. `moved` says for each list that was cut, from the outside in, under which key it stands and how many entries before this piece were left out."""

    value: Any
    moved: tuple[tuple[str, int], ...] = ()

    def place(self, loc: Sequence[Place]) -> tuple[Place, ...]:
        """Return where a place in the piece is in the whole field."""
        told, moved, since = list(loc), list(self.moved), {""}
        for number, part in enumerate(told):
            if isinstance(part, str):
                since.add(part)
            elif moved and moved[0][0] in since:
                told[number] = part + moved.pop(0)[1]
                since = {""}
            else:
                break
        return tuple(told)


def is_long(value: Any) -> bool:
    """Say whether a field is more than a piece. Costs no more for long ones than for short ones."""
    return _entries(value) > ENTRIES


def groups(value: list[Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield (place of the first entry, entries that make one piece). An entry that is more than a piece stands alone."""
    begin = 0
    while begin < len(value):
        end, room = begin + 1, ENTRIES - 1 - _entries(value[begin])
        if _is_number(value[begin]):
            most = begin + (NUMBERS if begin else ENTRIES)
            while end < min(most, len(value)) and _is_number(value[end]):
                end += 1
        else:
            while end < len(value) and (room := room - 1 - _entries(value[end])) >= 0:
                end += 1
        yield begin, value[begin:end]
        begin = end


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _entries(value: Any) -> int:
    """Return how many entries the lists in a field have; not many more than a piece are counted."""
    if not isinstance(value, list | dict):
        return 0
    entries, left = 0, [value]
    while left and entries <= ENTRIES:
        item = left.pop()
        if isinstance(item, list):
            entries += len(item)
            left += [entry for entry in item[:ENTRIES] if isinstance(entry, list | dict)]
        else:
            entries += len(item) // ENTRIES
            left += [
                entry for entry in islice(item.values(), WIDE) if isinstance(entry, list | dict)
            ]
    return entries


def pieces(value: Any, names: frozenset[str], *, key: str = "", depth: int = 0) -> Iterator[Piece]:
    """Yield the pieces of a field, made as they are asked for.

    names  the names that records have: a record is shown with all of them each time, because it is wrong without those it must have
    """
    if depth == _DEEP or not is_long(value):
        yield Piece(value)
    elif isinstance(value, list):
        for at, some in groups(value):
            if len(some) > 1 or not is_long(some[0]):
                yield Piece(some, ((key, at),))
                continue
            for piece in pieces(some[0], names, depth=depth + 1):
                yield Piece([piece.value], ((key, at), *piece.moved))
    elif len(value) <= WIDE:
        yield from _of_record(value, names, depth)
    else:
        record = {name: value[name] for name in value if name in names}
        yield from _of_record(record, names, depth)
        fixed = {name: _first(item, names, depth) for name, item in record.items()}
        rest = [name for name in value if name not in names]
        for at in range(0, len(rest), ENTRIES):
            table = {name: value[name] for name in rest[at : at + ENTRIES]}
            for piece in _of_record(table, names, depth):
                yield Piece({**fixed, **piece.value}, piece.moved)


def _of_record(value: Mapping[str, Any], names: frozenset[str], depth: int) -> Iterator[Piece]:
    long = [name for name, item in value.items() if is_long(item)]
    short = {name: _first(item, names, depth) for name, item in value.items()}
    if not long:
        yield Piece(short)
    for name in long:
        for piece in pieces(value[name], names, key=name, depth=depth + 1):
            yield Piece({**short, name: piece.value}, piece.moved)


def _first(item: Any, names: frozenset[str], depth: int) -> Any:
    return next(pieces(item, names, depth=depth + 1)).value
