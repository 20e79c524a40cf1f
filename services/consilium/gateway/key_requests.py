"""What may be asked about keys, and how a key is shown: the rules behind /v1/keys and `consilium keys`.

    {"name": "laptop", "scopes": ["generate"], "tenant": "home", "owner": "ann", "rpm": 60, "burst": 10, "tpm": 100000, "expires": "30d"}

Pure. Knows fields and sentences. Does not know where keys are kept or how they are asked for.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from consilium.gateway.keys import ID_LENGTH, KeyRecord
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import BASE_SCOPES, DEFAULT_SCOPES, DEFAULT_TENANT
from consilium.kernel.rooms import Room

FIELDS: Final = ("name", "scopes", "tenant", "owner", "rpm", "tpm", "burst", "expires")
LONGEST_NAME: Final = 200
SHORTEST: Final = 4
"""Digits of an id that are needed: a slip of the keyboard should close nobody's key."""
MOST_NAMED: Final = 10
MARGIN_S: Final = 5.0
"""Seconds that a question asked before a revocation may take to be answered after it."""
MOST: Final = 2**40
"""Largest limit per minute."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"(\d{1,9})([smhdw])")
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key that is to be made. `lifetime_s` None = without an end."""

    name: str
    scopes: frozenset[str] = DEFAULT_SCOPES
    tenant: str = DEFAULT_TENANT
    owner: str = ""
    rpm: int = 0
    tpm: int = 0
    burst: int = 0
    lifetime_s: float | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields as `keys.mint` takes them."""
        return asdict(self)


def scopes_of(rooms: Iterable[Room]) -> frozenset[str]:
    """Return every scope that a key may have."""
    return BASE_SCOPES.union(*(room.scopes for room in rooms))


def wanted(body: Mapping[str, Any], known: frozenset[str], now: float) -> Wanted:
    """Return the key that a body asks for.

    known  scopes that there are
    now    Unix seconds

    Raises ConsiliumError(invalid_request) naming the field.
    """
    for field in body:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1, cutoff=0)
            raise refused(field[:40], f"a key has no such field. The nearest one is {near[0]!r}")
    rpm, burst = _count("rpm", body.get("rpm")), _count("burst", body.get("burst"))
    if burst > rpm:
        raise refused(
            "burst", "it is how many of the requests per minute may come at once: at most rpm"
        )
    return Wanted(
        name=_text("name", body.get("name"), is_needed=True),
        scopes=_scopes(body.get("scopes"), known),
        tenant=tenant(body.get("tenant") or DEFAULT_TENANT),
        owner=_text("owner", body.get("owner")),
        rpm=rpm,
        burst=burst,
        tpm=_count("tpm", body.get("tpm")),
        lifetime_s=_lifetime_s(body.get("expires"), now),
    )


def scope(name: str, known: Iterable[str]) -> str:
    """Return a scope. Raises ConsiliumError(invalid_request) naming the nearest if there is none of that name."""
    known = sorted(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise refused(
            "scopes",
            f"there is no scope {name[:64]!r}. The nearest is {near[0]!r}; there are {', '.join(known)}",
        )
    return name


def tenant(name: object) -> str:
    """Return the name of a tenant. Raises ConsiliumError(invalid_request)."""
    if not isinstance(name, str) or not _TENANT.fullmatch(name):
        raise refused("tenant", "write up to 63 of a-z, 0-9, dot, dash and underscore")
    return name


def chosen(name: str, ids: Iterable[str]) -> str:
    """Return the id that a name means: an id, the beginning of one, or an id that a table has cut short with dots.

    Raises ConsiliumError: key_unknown, invalid_request (the beginning is short, or that of several keys, which are named).
    """
    start = beginning(name)
    found = sorted(known for known in ids if known.startswith(start))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConsiliumError("key_unknown", name=start)
    shown = ", ".join(found[:MOST_NAMED]) + (" ..." if len(found) > MOST_NAMED else "")
    raise refused("id", f"{start!r} begins the ids of {len(found)} keys: {shown}. Write more of it")


def beginning(name: str) -> str:
    """Return what is known of an id. Raises ConsiliumError: key_unknown for what begins no id, invalid_request where it is too little."""
    start = name.rstrip(".\u2026").lower()
    if not start or len(start) > ID_LENGTH or not set(start) <= set("0123456789abcdef"):
        raise ConsiliumError("key_unknown", name=name[:ID_LENGTH])
    if len(start) < SHORTEST:
        raise refused("id", f"write at least {SHORTEST} of the {ID_LENGTH} digits of the id")
    return start


def span_s(text: str) -> float | None:
    """Return the seconds of 90s, 15m, 12h, 30d or 8w, or None if it is no span."""
    found = _SPAN.fullmatch(text.strip().lower())
    return float(found[1]) * _UNITS[found[2]] if found else None


def shown(record: KeyRecord, now: float, *, cache_s: float) -> dict[str, Any]:
    """Return what may be shown of a key at a time in Unix seconds; its times are whole Unix seconds, null = not.

    cache_s  how long a gateway that cannot reach the store lets in a key that it has seen. `certain_in_s` is how long one may still hold a revoked key so
    """
    certain = record.revoked + cache_s + MARGIN_S - now
    return {
        "id": record.id,
        "object": "key",
        "name": record.name,
        "scopes": sorted(record.scopes),
        "tenant": record.tenant,
        "owner": record.owner,
        "rpm": record.rpm,
        "tpm": record.tpm,
        "burst": record.burst or record.rpm,
        "created": int(record.created),
        "expires": int(record.expires) or None,
        "revoked": int(record.revoked) or None,
        "certain_in_s": max(0, math.ceil(certain)) if record.revoked else None,
        "state": record.refusal(now) or "good",
    }


def not_revoked(name: str, cache_s: float, why: ConsiliumError) -> ConsiliumError:
    """Return the error of a key that could not be revoked, for how long it still opens and how to be sure."""
    return ConsiliumError(
        "key_not_revoked",
        why.detail,
        retry_after_s=why.retry_after_s or 1.0,
        name=name[:ID_LENGTH],
        seconds=round(cache_s),
    )


def refused(field: str, reason: str) -> ConsiliumError:
    """Return the error of a field."""
    return ConsiliumError("invalid_request", field=field, reason=reason)


def _scopes(value: object, known: frozenset[str]) -> frozenset[str]:
    if value is None:
        return DEFAULT_SCOPES
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise refused("scopes", f"it must be a list of scopes, such as {sorted(DEFAULT_SCOPES)}")
    return frozenset(scope(one, known) for one in value)


def _text(field: str, value: object, *, is_needed: bool = False) -> str:
    if value is None and not is_needed:
        return ""
    good = isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME
    if not good or (is_needed and not str(value).strip()):
        raise refused(field, f"it must be one line of text of at most {LONGEST_NAME} characters")
    return str(value).strip()


def _count(field: str, value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
        raise refused(field, "it must be a whole number per minute; 0 or null is no limit")
    return value


def _lifetime_s(value: object, now: float) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) and (seconds := span_s(value)):
        return seconds
    if isinstance(value, int | float) and not isinstance(value, bool) and now < value < MOST:
        return float(value) - now
    raise refused("expires", "write a span such as 12h, 30d or 8w, or Unix seconds to come")
