"""How the planner says no to a question: one sentence and the nearest thing that would work.

Does not know exit codes; the command line turns these into 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from consilium.kernel.errors import ConsiliumError


def wrong(field: str, reason: str) -> ConsiliumError:
    """Return the error for an input that cannot be planned. `reason` is a sentence that names what would work."""
    return ConsiliumError("invalid_request", field=field, reason=reason)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word`, by spelling without case, spaces and dashes."""
    plain = {_plain(name): name for name in known}
    beginning = [name for name in plain if _plain(word) and name.startswith(_plain(word))]
    if beginning:
        return plain[min(beginning, key=len)]
    found = difflib.get_close_matches(_plain(word), list(plain), n=1, cutoff=0.0)
    return plain[found[0]] if found else ""


def _plain(word: str) -> str:
    return "".join(ch for ch in word.lower() if ch.isalnum() or ch == ".")[:200]
