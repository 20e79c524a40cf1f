"""Reads amounts as people write them: 128k tokens, 64GB of RAM, 1M pages. Does not know what they are for."""

from __future__ import annotations

import re
from typing import Final

from consilium.planner.figures import GIB
from consilium.planner.refusal import wrong

_TOKENS: Final = re.compile(r"^(-?\d+(?:\.\d+)?)\s*([km]?)$", re.IGNORECASE)
_BYTES: Final = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(tib|tb|gib|gb|g|mib|mb|m)?$", re.IGNORECASE)
_SCALE: Final = {
    "tib": 1 << 40,
    "tb": 10**12,
    "gib": 1 << 30,
    "gb": 10**9,
    "g": 1 << 30,
    "mib": 1 << 20,
    "mb": 10**6,
    "m": 1 << 20,
}


def tokens(text: str, field: str = "context") -> int:
    """Return a token count: '128k' is 131,072 and '1M' 1,048,576, as model makers count; plain digits are taken as they are."""
    found = _TOKENS.match(text.strip().replace(",", "").replace("_", ""))
    if not found:
        raise wrong(field, f"{text[:40]!r} is no number of tokens; write 32768, 32k or 1M")
    value = float(found[1]) * {"": 1, "k": 1024, "m": 1 << 20}[found[2].lower()]
    if not 1 <= value <= 1 << 40 or value != int(value):
        raise wrong(
            field, f"{text[:40]!r} cannot be planned; give a whole number above 0, such as 32k"
        )
    return int(value)


def count(text: str, field: str) -> int:
    """Return a plain count: '2M' pages are 2,000,000."""
    found = _TOKENS.match(text.strip().replace(",", "").replace("_", ""))
    value = float(found[1]) * {"": 1, "k": 1000, "m": 10**6}[found[2].lower()] if found else -1
    if not 1 <= value <= 1e15:
        raise wrong(field, f"{text[:40]!r} is no count; write 10000, 10k or 2M")
    return int(value)


def amount(text: str, field: str = "ram") -> int:
    """Return bytes: '64GB' is 64 x 10^9, '64GiB', '64G' and a bare 64 are 64 x 2^30."""
    found = _BYTES.match(text.strip())
    if not found:
        raise wrong(field, f"{text[:40]!r} is no size; write 64GB or 64GiB")
    value = float(found[1]) * (_SCALE[found[2].lower()] if found[2] else GIB)
    if not 1 <= value < 1 << 60:
        raise wrong(field, f"{text[:40]!r} cannot be planned; give a size such as 64GB")
    return int(value)


def gib(value: float, field: str) -> int:
    """Return GiB as bytes."""
    if not 0 < value < 1 << 20:
        raise wrong(field, f"{value:g} GiB cannot be planned; give more than 0, such as 8")
    return round(value * GIB)
