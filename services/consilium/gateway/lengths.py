"""How long an answer may be: the fields of each route that say so, which of two wins, and what a number in JSON means.

Knows bodies. Does not know who reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.engine.ports import Json, Route

FIELDS: Final[Mapping[Route, tuple[str, ...]]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}
"""Route -> the fields that carry the longest answer in tokens; where a body has two, the first one wins, as it does in vLLM."""


def count_of(value: object) -> int:
    """Return a number above 0 as the engine's models read it, to which 3, 3.0 and "3" are the same; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, 2**53))


def asked(body: Mapping[str, object], route: Route) -> int:
    """Return the longest answer that a body asks for in tokens, 0 where it names none."""
    return next((count for name in FIELDS.get(route, ()) if (count := count_of(body.get(name)))), 0)


def is_named(body: Mapping[str, object], route: Route) -> bool:
    """Say whether a body has any of the fields, whatever its value; null counts as not there."""
    return any(body.get(name) is not None for name in FIELDS.get(route, ()))


def limited(body: Json, route: Route, tokens: int) -> Json:
    """Return the body with the longest answer set to so many tokens, in one field alone: the one that was there, else the route's plainest."""
    names = FIELDS[route]
    name = next((name for name in names if body.get(name) is not None), names[-1])
    return {**{key: value for key, value in body.items() if key not in names}, name: tokens}
