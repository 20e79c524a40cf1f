"""Checks a tokenizer file against a model's embedding table: ids without a row, moved ids, rows to spare, clashes.

Knows tokenizer.json as plain data. Does not tokenise (the command does, with a library) and does not read tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consilium.planner.edits import Effect
from consilium.planner.models import read_json
from consilium.planner.refusal import wrong
from consilium.planner.shapes import Shape

MAX_TOKENIZER_BYTES: Final = 64 << 20
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token -> id, and the added tokens among them."""

    ids: Mapping[str, int]
    added: frozenset[str]

    @property
    def highest(self) -> int:
        """The largest id."""
        return max(self.ids.values(), default=-1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found."""

    effect: Effect
    sentence: str


def vocabulary(data: Mapping[str, Any]) -> Vocabulary:
    """Return the vocabulary of a parsed tokenizer.json. Raises invalid_request when it is none."""
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    added = data.get("added_tokens") or []
    if isinstance(vocab, list):
        vocab = {
            str(entry[0]): index
            for index, entry in enumerate(vocab)
            if isinstance(entry, list) and entry
        }
    if not isinstance(vocab, Mapping) or not vocab or not isinstance(added, list):
        raise wrong("tokenizer", "it holds no vocabulary; give the tokenizer.json of a model")
    ids = {
        str(token): index
        for token, index in vocab.items()
        if isinstance(index, int) and not isinstance(index, bool)
    }
    extra = {
        str(entry["content"]): entry["id"]
        for entry in added
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), int) and "content" in entry
    }
    return Vocabulary({**ids, **extra}, frozenset(extra))


def read_vocabulary(path: Path) -> Vocabulary:
    """Return the vocabulary of a tokenizer.json file or of the folder that holds it."""
    file = path / "tokenizer.json" if path.is_dir() else path
    return vocabulary(read_json(file, MAX_TOKENIZER_BYTES, "tokenizer.json"))


def check(new: Vocabulary, shape: Shape, old: Vocabulary | None = None) -> list[Finding]:
    """Return what an edited tokenizer does to a model, worst first.

    new    the tokenizer to be used
    shape  its vocab is the number of rows in the embedding table
    old    the tokenizer that the model was trained with, where it is at hand
    """
    found = [*_against_rows(new, shape), *_clashes(new)]
    if old is not None:
        found += _against_old(new, old)
    order = ("breaks", "silently_wrong", "harmful", "unknown", "legal")
    return sorted(found, key=lambda finding: order.index(finding.effect))


def _against_rows(new: Vocabulary, shape: Shape) -> list[Finding]:
    rows = shape.vocab
    beyond = sorted(
        (index, token) for token, index in new.ids.items() if index >= rows or index < 0
    )
    if beyond:
        names = ", ".join(f"{token!r} ({index})" for index, token in beyond[:_SHOWN])
        return [
            Finding(
                "breaks",
                f"{len(beyond)} tokens have no row in the embedding table of {rows}: {names}. The first request with one of them fails. "
                "Resize the table and train the new rows, or use ids that are free below it.",
            )
        ]
    spare = rows - len(set(new.ids.values()))
    first = new.highest + 1
    free = rows - first
    said = f"{spare} rows of {rows} are not used" + (
        f"; ids {first} to {rows - 1} are free at the end ({free})." if free > 0 else "."
    )
    return [
        Finding(
            "legal",
            said
            + (
                " New tokens may take them without resizing, but those rows were never trained: they mean nothing until they are."
                if spare
                else ""
            ),
        )
    ]


def _clashes(new: Vocabulary) -> list[Finding]:
    seen: dict[int, str] = {}
    double = []
    for token, index in new.ids.items():
        if index in seen:
            double.append(f"{seen[index]!r} and {token!r} ({index})")
        seen[index] = token
    if not double:
        return []
    return [
        Finding(
            "silently_wrong",
            f"{len(double)} ids stand for two tokens: {', '.join(double[:_SHOWN])}. The model cannot tell them apart.",
        )
    ]


def _against_old(new: Vocabulary, old: Vocabulary) -> list[Finding]:
    found = []
    moved = [
        token for token, index in old.ids.items() if token in new.ids and new.ids[token] != index
    ]
    gone = [token for token in old.ids if token not in new.ids]
    taken = {index: token for token, index in old.ids.items()}
    added = [token for token in new.ids if token not in old.ids]
    reused = [
        token for token in added if new.ids[token] in taken and taken[new.ids[token]] not in new.ids
    ]
    if moved:
        found.append(
            Finding(
                "silently_wrong",
                f"{len(moved)} tokens moved to another id, such as {moved[0]!r}: the model reads them as other words.",
            )
        )
    if reused:
        found.append(
            Finding(
                "harmful",
                f"{len(reused)} new tokens took the id of an old one, such as {reused[0]!r} in place of {taken[new.ids[reused[0]]]!r}: the row keeps its old meaning until it is trained.",
            )
        )
    lost = [token for token in gone if token in old.added]
    if lost:
        found.append(
            Finding(
                "harmful",
                f"{len(lost)} special tokens are gone, such as {lost[0]!r}: templates that use them fall into pieces that the model does not know.",
            )
        )
    elif gone:
        found.append(
            Finding(
                "harmful",
                f"{len(gone)} tokens are gone: their words fall into smaller pieces, which costs length and some quality.",
            )
        )
    plain = [token for token in added if token not in reused]
    if plain:
        found.append(
            Finding(
                "harmful",
                f"{len(plain)} tokens are new, such as {plain[0]!r}: their rows are untrained. Train them (embedding and head) before use; a LoRA without those layers does not.",
            )
        )
    if not found:
        found.append(Finding("legal", "Every token has the id that it had."))
    return found
