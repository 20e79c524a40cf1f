"""JSON out of foreign files: what one reader would take this way and another one that way is refused.

Takes bytes, gives values. Does not know what they mean.
"""

from __future__ import annotations

import json
from typing import Any


class StrictJsonError(ValueError):
    """JSON that is not taken. `kind` is not_utf8, not_json, duplicate_key or too_deep; the text is the end of a sentence that begins with the file."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def loads(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`. NaN and Infinity, a key that stands twice, and numbers of thousands of digits are refused.

    Raises StrictJsonError.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise StrictJsonError("not_utf8", f"is not UTF-8 (byte {cause.start})") from cause
    try:
        loaded = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except StrictJsonError:
        raise
    except RecursionError as cause:
        raise StrictJsonError("too_deep", "is nested too deeply") from cause
    except ValueError as cause:
        raise StrictJsonError("not_json", f"is not JSON ({str(cause)[:80]})") from cause
    if not isinstance(loaded, dict):
        raise StrictJsonError("not_json", "is not a JSON object")
    return loaded


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise StrictJsonError("duplicate_key", f"has the key {twice[:80]!r} twice")
    return found


def _no_constant(word: str) -> Any:
    raise StrictJsonError("not_json", f"holds {word}, which JSON does not know")
