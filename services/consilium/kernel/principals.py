"""Who asks, and how one service of the cluster tells another: scopes, and a principal signed with the internal token.

    x-consilium-principal: <base64url of JSON>.<base64url of HMAC-SHA256(token, JSON)>

The gateway alone knows API keys; it hands on who holds one, and rooms believe nobody else. A principal is good for `LIFETIME_S`, so that one copied from a log
opens nothing tomorrow. Knows scopes and signatures. Does not know keys, gRPC or HTTP.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final

from consilium.kernel.errors import ConsiliumError

GENERATE: Final = "generate"
READ: Final = "read"
ADMIN: Final = "admin"
METRICS_READ: Final = "metrics.read"
"""May read the figures of the whole cluster, names of keys and roles among them."""
BASE_SCOPES: Final = frozenset({GENERATE, READ, ADMIN, METRICS_READ})
DEFAULT_SCOPES: Final = frozenset({GENERATE, READ})
DEFAULT_TENANT: Final = "home"

PRINCIPAL_KEY: Final = "x-consilium-principal"
"""Metadata and header that carries a signed principal."""
TOKEN_KEY: Final = "x-consilium-token"  # noqa: S105  the name of a header
"""Metadata and header that carries the internal token."""
LIFETIME_S: Final = 900.0
SKEW_S: Final = 120.0
"""Seconds by which the clocks of two nodes may differ."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    key_id  id of the API key; empty where none is required, or where a part of the cluster asks for itself
    name    what its owner called it
    tenant  whose data it may see
    owner   who the key belongs to; empty where nobody said
    """

    key_id: str
    name: str
    scopes: frozenset[str]
    tenant: str = DEFAULT_TENANT
    owner: str = ""

    def may(self, scope: str) -> bool:
        """Say whether a scope is held: admin holds all, whoever may generate may read, and `room.write` holds `room.read`."""
        if scope in self.scopes or ADMIN in self.scopes:
            return True
        if scope == READ:
            return GENERATE in self.scopes
        room, dot, verb = scope.partition(".")
        return bool(dot) and verb == READ and f"{room}.write" in self.scopes


ANYONE: Final = Principal("", "anyone", DEFAULT_SCOPES)
"""Who asks when the configuration requires no key: not an admin, so what was kept for a key stays that key's."""

CLUSTER: Final = Principal("", "cluster", frozenset({ADMIN}))
"""A part of the cluster that asks for itself."""


def sign(principal: Principal, token: str, now: float) -> str:
    """Return a principal as one line of text that only a holder of the internal token can have made. `now` is Unix seconds."""
    told = {
        "key_id": principal.key_id,
        "name": principal.name,
        "scopes": sorted(principal.scopes),
        "tenant": principal.tenant,
        "owner": principal.owner,
        "at": round(now, 3),
    }
    raw = json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()
    return f"{_text(raw)}.{_text(_mac(raw, token))}"


def verified(text: str, token: str, now: float) -> Principal:
    """Return the principal that `sign` wrote. `now` is Unix seconds.

    Raises ConsiliumError(unauthenticated) if it was not signed with this token, is too old, or is another thing.
    """
    body, dot, mac = text.partition(".")
    try:
        raw, given = _bytes(body), _bytes(mac)
    except (ValueError, binascii.Error):
        raise _refused("it is not spelled as one") from None
    if not dot or not hmac.compare_digest(_mac(raw, token), given):
        raise _refused("its signature is wrong")
    told = json.loads(raw)
    age_s = now - float(told["at"])
    if not -SKEW_S <= age_s <= LIFETIME_S + SKEW_S:
        raise _refused(f"it is {age_s:.0f} s old")
    return Principal(
        str(told["key_id"]),
        str(told["name"]),
        frozenset(told["scopes"]),
        str(told["tenant"]),
        str(told.get("owner", "")),
    )


def check_token(given: str | None, token: str) -> None:
    """Raise ConsiliumError(unauthenticated) unless the internal token was given."""
    if given is None:
        raise ConsiliumError(
            "unauthenticated",
            reason="This service belongs to the inside of the cluster; ask the gateway instead.",
        )
    if not hmac.compare_digest(given.encode(), token.encode()):
        raise ConsiliumError(
            "unauthenticated",
            "the internal token is wrong",
            reason="The internal token is not that of this cluster.",
        )


def _mac(raw: bytes, token: str) -> bytes:
    return hmac.new(token.encode(), raw, hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _refused(reason: str) -> ConsiliumError:
    return ConsiliumError(
        "unauthenticated",
        f"principal refused: {reason}",
        reason="The principal of this call was not signed by this cluster's gateway.",
    )
