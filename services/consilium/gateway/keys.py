"""API keys: how one is made, spelled, hashed and checked.

    csl_<id>_<secret>      id: 12 hex digits, public; secret: 48 hex digits, shown once and never stored

Stored is HMAC-SHA256(pepper, secret); the pepper lies in the state folder, so a stolen store opens nothing. Knows one key. Does not know where keys are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

from consilium.kernel.principals import (
    ADMIN,
    ANYONE,
    BASE_SCOPES,
    DEFAULT_SCOPES,
    DEFAULT_TENANT,
    GENERATE,
    READ,
    Principal,
)

__all__ = ["ADMIN", "ANYONE", "DEFAULT_SCOPES", "DEFAULT_TENANT", "GENERATE", "READ", "Principal"]

PREFIX: Final = "csl"
ID_LENGTH: Final = 12
_SPELLING: Final = re.compile(r"csl_([0-9a-f]{12})_([0-9a-f]{48})")
_BEARER: Final = re.compile(r"bearer[ \t]+(\S+)[ \t]*", re.IGNORECASE)

SCOPES: Final = BASE_SCOPES


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of a key.

    digest   hex of `digest()`
    rpm      requests per minute, 0 = no limit
    tpm      tokens per minute, 0 = no limit
    burst    requests that may come at once, 0 = as many as rpm
    owner    who it belongs to, empty where nobody said
    created  Unix seconds; so are `expires` (0 = never) and `revoked` (0 = not)
    """

    id: str
    name: str
    digest: str
    scopes: frozenset[str] = DEFAULT_SCOPES
    tenant: str = DEFAULT_TENANT
    rpm: int = 0
    tpm: int = 0
    created: float = 0.0
    expires: float = 0.0
    revoked: float = 0.0
    owner: str = ""
    burst: int = 0

    def refusal(self, now: float) -> str | None:
        """Return the sentence of why this key opens nothing at a time in Unix seconds, or None if it is good."""
        if self.revoked:
            return "This API key was revoked."
        if self.expires and now >= self.expires:
            return "This API key has expired."
        return None


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as it came in."""

    id: str
    secret: str


def mint(
    pepper: bytes,
    *,
    name: str,
    now: float,
    scopes: frozenset[str] = DEFAULT_SCOPES,
    tenant: str = DEFAULT_TENANT,
    owner: str = "",
    rpm: int = 0,
    tpm: int = 0,
    burst: int = 0,
    lifetime_s: float | None = None,
) -> tuple[str, KeyRecord]:
    """Return (text of a new key, what to store). `now` is Unix seconds; without a lifetime the key never expires."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(24)
    expires = now + lifetime_s if lifetime_s is not None else 0.0
    return f"{PREFIX}_{key_id}_{secret}", KeyRecord(
        key_id,
        name,
        digest(pepper, secret),
        scopes,
        tenant,
        rpm,
        tpm,
        created=now,
        expires=expires,
        owner=owner,
        burst=burst,
    )


def parse(text: str) -> Presented | None:
    """Return the two halves of a key, or None if it is spelled otherwise."""
    found = _SPELLING.fullmatch(text)
    return Presented(found[1], found[2]) if found else None


def is_id(text: str) -> bool:
    """Say whether a text is spelled as the id of a key."""
    return len(text) == ID_LENGTH and set(text) <= set("0123456789abcdef")


def bearer(header: str | None) -> Presented | None:
    """Return the key in an Authorization header, or None if there is none."""
    found = _BEARER.fullmatch(header) if header else None
    return parse(found[1]) if found else None


def digest(pepper: bytes, secret: str) -> str:
    """Return hex of HMAC-SHA256(pepper, secret)."""
    return hmac.new(pepper, secret.encode(), hashlib.sha256).hexdigest()


def verify(record: KeyRecord, given: str) -> bool:
    """Say whether a digest is that of the record, in constant time."""
    return hmac.compare_digest(record.digest.encode(), given.encode())


def principal(record: KeyRecord) -> Principal:
    """Return who holds a key."""
    return Principal(record.id, record.name, record.scopes, record.tenant, record.owner)
