"""Token ids in place of texts: what they are taken for, and how they become texts again.

An id means something in one vocabulary only, and 7 is a word in all of them. So ids are read where the request says whose they are, and refused elsewhere: a vector of
other words than the caller's would look like any other. Does not know vocabularies.
"""

from __future__ import annotations

from typing import Final, TypeGuard

from consilium.embedding.ports import Vocabulary
from consilium.kernel.errors import ConsiliumError

OF_NOBODY: Final = (
    "it holds token ids, and nothing says of which vocabulary. Send text (LangChain: check_embedding_ctx_length=False); "
    "if they are ids of OpenAI's cl100k_base, say so with tokenizer: 'cl100k_base', or name a model of OpenAI's such as 'text-embedding-3-small'"
)


MOST_IDS: Final = 8192
MOST_IN_ALL: Final = 300_000
"""Ids of one text, and of a request: OpenAI's own limits. One id may be 128 spaces, so that a body of ids could become 20 times as much text."""


def are_ids(given: object) -> TypeGuard[list[object]]:
    """Say whether an `input` holds ids: one list of them, or a list of lists."""
    return isinstance(given, list) and bool(given) and (_is_id(given[0]) or _is_row(given[0]))


def texts(given: list[object], vocabulary: Vocabulary) -> list[str]:
    """Return the texts of an `input` that holds ids. Raises ConsiliumError(invalid_request) with the place of what is wrong."""
    rows = [given] if _is_id(given[0]) else given
    in_all = sum(len(row) for row in rows if isinstance(row, list))
    if in_all > MOST_IN_ALL:
        raise _bad("input", f"it holds {in_all} ids, and {MOST_IN_ALL} go into one request")
    if _is_id(given[0]):
        return [_text(given, "input", vocabulary)]
    return [_text(row, f"input[{number}]", vocabulary) for number, row in enumerate(given)]


def _is_id(one: object) -> TypeGuard[int]:
    return isinstance(one, int) and not isinstance(one, bool)


def _is_row(one: object) -> bool:
    return isinstance(one, list) and all(map(_is_id, one))


def _text(row: object, place: str, vocabulary: Vocabulary) -> str:
    if not isinstance(row, list):
        raise _bad(place, "it is not a list of token ids, and others here are")
    if len(row) > MOST_IDS:
        raise _bad(place, f"it holds {len(row)} ids, and a text has at most {MOST_IDS}")
    ids = [one for one in row if _is_id(one)]
    if len(ids) < len(row):
        raise _bad(place, "it holds something else than token ids")
    try:
        return vocabulary.text(ids)
    except KeyError as unknown:
        raise _bad(place, f"{vocabulary.name} has no token {unknown.args[0]}") from None
    except ConsiliumError as missing:
        raise _bad(
            place,
            f"this server was installed without {vocabulary.name}. Send text (LangChain: check_embedding_ctx_length=False)",
        ) from missing


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason, param="input")
