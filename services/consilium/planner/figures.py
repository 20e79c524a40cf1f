"""Reads the tables under data/ and hands out single figures by name.

Every figure has a source beside it; a test forbids one without. Does not know what the figures are for.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

DATA: Final = Path(__file__).parent / "data"
GIB: Final = 1 << 30
MIB: Final = 1 << 20


@lru_cache(maxsize=32)
def table(name: str) -> dict[str, Any]:
    """Return data/<name>.json as a dict; the caller must not change it."""
    loaded: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


@lru_cache(maxsize=256)
def constant(name: str) -> float:
    """Return the value of one entry of data/constants.json. Units stand in the entry and in its name."""
    return float(table("constants")["constants"][name]["value"])


def gib(amount: float) -> float:
    """Return bytes as GiB."""
    return amount / GIB


def tokens_in_words(count: float) -> str:
    """Return a token count as people say it: 131072 -> '128k', 99700 -> '99.7k', 1048576 -> '1M'."""
    number = int(count)
    if number >= MIB and number % MIB == 0:
        return f"{number // MIB}M"
    if number >= 1024 and number % 1024 == 0 and number < MIB:
        return f"{number // 1024}k"
    if number >= 1_000_000:
        return f"{number / 1e6:.2f}M".replace(".00M", "M")
    if number >= 10_000:
        return f"{number / 1e3:.1f}k".replace(".0k", "k")
    return str(number)
