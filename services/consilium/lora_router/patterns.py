"""The keys of rank_pattern and alpha_pattern: regular expressions that a foreign file brings, and that every engine runs for every module.

A key means what it means in PEFT and vLLM: it matches a module whose name ends with it at a dot; the first match wins. Only keys that no name can make
slow are taken. Knows names of modules. Does not know ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

LONGEST_KEY: Final = 256
MOST_KEYS: Final = 400
"""vLLM compiles each key anew once there are more than 500 of them (the cache of its regular expressions is full): 0.2 ms each, for each key and module, while every stream of the engine stands still."""

MOST_STEPS: Final = 2_000_000
"""Most comparisons for one adapter: keys times modules."""

_WILD_STEPS: Final = 50
"""What a key with `.*` costs, in comparisons of plain keys."""

_TOKEN: Final = re.compile(
    r"""(?P<open>\((?:\?:)?)
      | (?P<close>\))
      | (?P<digits>\\d | \[0-9\])
      | (?P<any>\. | \\w | \[[A-Za-z0-9_-]+\])
      | (?P<plain>[A-Za-z0-9_-] | \\[.\-_])
      | (?P<turn>\|)
      | (?P<edge>[\^$])
      | (?P<times>[*+?] | \{\d{1,2}(?:,\d{1,2})?\})
    """,
    re.VERBOSE,
)
_MOST_DIGIT_RUNS: Final = 4
_MOST_GROUPS: Final = 2
_MOST_WILD: Final = 1


def unsafe(key: str) -> str:
    """Return why a key is not taken, "" if it is: at most one `.*`, four runs of digits and two groups, nothing repeated that repeats itself."""
    if not key or len(key) > LONGEST_KEY:
        return f"it has {len(key)} characters, and 1 to {LONGEST_KEY} are taken"
    counts = {"wild": 0, "digits": 0, "open": 0}
    last, at = "", 0
    while at < len(key):
        token = _TOKEN.match(key, at)
        if token is None:
            return f"{key[at]!r} at {at} is none of what is taken: names, dots, \\d+, .*, (a|b)"
        kind = str(token.lastgroup)
        if kind == "times":
            if last not in ("digits", "any", "plain"):
                return f"{token[0]!r} at {at} repeats a group or a repetition"
            counts["digits" if last == "digits" else "wild"] += 1
        elif kind == "open":
            counts["open"] += 1
        last, at = kind, token.end()
    if counts["wild"] > _MOST_WILD:
        return f"it repeats {counts['wild']} times what may be any character"
    if counts["digits"] > _MOST_DIGIT_RUNS or counts["open"] > _MOST_GROUPS:
        return f"it has {counts['digits']} runs of digits and {counts['open']} groups"
    return "" if _compiles(key) else "it is no regular expression"


def steps(keys: Iterable[str], modules: int) -> int:
    """Return what it costs to look every module up, in comparisons."""
    return modules * sum(_WILD_STEPS if re.search(r"[*+?{|]", key) else 1 for key in keys)


def first_match(keys: Iterable[str], module: str) -> str | None:
    """Return the first key that a module's name ends with at a dot, None if there is none. The keys are safe ones."""
    return next((key for key in keys if _compiled(key).match(module)), None)


@lru_cache(maxsize=4096)
def _compiled(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def _compiles(key: str) -> bool:
    try:
        _compiled(key)
    except re.error:
        return False
    return True
