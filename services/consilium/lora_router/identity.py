"""How adapters are named: name, version, weight; and the number under which every engine knows one.

    sport                   the current version
    sport:3f9c1a            the version whose hash begins so
    core@1.0+sport@0.7      an exact sum of two, each with its weight
    sport:3f9c1a0b2d4e5f60  a reference: a name and the first 16 characters of a hash; this is what engines are told

Pure. Does not know which adapters there are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from consilium.kernel.errors import ConsiliumError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
SHA: Final = re.compile(r"[0-9a-f]{4,64}")
SHORT: Final = 16
"""Characters of a hash in a reference."""

MIX: Final = "mix"
"""Name under which sums are stored: nobody may give it to an adapter."""

MOST_PARTS: Final = 8
HEAVIEST: Final = 10.0
IDS: Final = 2**31 - 1
RECIPE: Final = "rank-concatenation/1"
"""Version of the recipe for sums (composition.py); part of a sum's address."""


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter of a request.

    sha     beginning of a hash in hex, or "" = the current version
    weight  factor of its delta
    is_weighed  whether the weight was said: 1.0 is then no default
    """

    name: str
    sha: str = ""
    weight: float = 1.0
    is_weighed: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """Return the part as it is written."""
        version = f":{self.sha}" if self.sha else ""
        return f"{self.name}{version}" + ("" if self.weight == 1.0 else f"@{self.weight:g}")


def parse(text: str, *, param: str = "model") -> tuple[Part, ...]:
    """Return the parts of what stands behind `adapter/`.

    Raises ConsiliumError(invalid_request) that names what is wrong and how it is written.
    """
    pieces = text.split("+")
    if len(pieces) > MOST_PARTS:
        raise _wrong(
            text, f"it adds {len(pieces)} adapters, and at most {MOST_PARTS} may be", param
        )
    parts = tuple(_part(piece, text, param) for piece in pieces)
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(text, f"{name!r} stands in it twice; give it one weight", param)
    return parts


def _part(piece: str, text: str, param: str) -> Part:
    named, at, weight = piece.partition("@")
    name, colon, sha = named.partition(":")
    if not NAME.fullmatch(name):
        reason = f"{name[:80]!r} is no name: small letters, digits, '.', '_' and '-', at most 63"
        raise _wrong(text, reason, param)
    if colon and not SHA.fullmatch(sha):
        reason = f"{sha[:80]!r} is no version: 4 to 64 characters of its hash, 0-9 and a-f"
        raise _wrong(text, reason, param)
    return Part(name, sha, _weight(weight, text, param) if at else 1.0, bool(at))


def _weight(told: str, text: str, param: str) -> float:
    try:
        weight = float(told) if re.fullmatch(r"-?\d{1,3}(\.\d{1,6})?", told) else None
    except ValueError:
        weight = None
    if weight is None or not abs(weight) <= HEAVIEST:
        reason = (
            f"{told[:40]!r} is no weight: a number from -{HEAVIEST:g} to {HEAVIEST:g}, such as 0.7"
        )
        raise _wrong(text, reason, param)
    return weight


def _wrong(text: str, why: str, param: str) -> ConsiliumError:
    reason = f"adapter/{text[:120]} cannot be read: {why}. Write adapter/NAME, adapter/NAME:VERSION, or adapter/A@1.0+B@0.7"
    return ConsiliumError("invalid_request", field=param, reason=reason, param=param)


def reference(name: str, sha: str) -> str:
    """Return what engines call this version: it never means other content."""
    return f"{name}:{sha[:SHORT]}"


def lora_int_id(sha: str) -> int:
    """Return the number of a version, equal on all replicas: 1 to 2^31 - 1, from the hash. The registry refuses a second version with the same number."""
    return int(sha[:16], 16) % IDS + 1


def sum_sha(parts: Sequence[tuple[str, float]]) -> str:
    """Return the address of a sum: of (whole hash, weight) of each part, in any order."""
    told = "|".join(f"{sha}@{weight + 0.0:.6f}" for sha, weight in sorted(parts))  # no -0
    return hashlib.sha256(f"{RECIPE}|{told}".encode()).hexdigest()
