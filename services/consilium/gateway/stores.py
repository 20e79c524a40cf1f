"""What the gateway keeps: keys, quotas, receipts, stored responses. Ports; the backends are in backends/.

Every backend raises ConsiliumError(upstream_down) when it cannot be reached, and nothing else. Does not know Redis.

Quotas are buckets: `burst` requests (by default `rpm`) and `tpm` tokens are there at first, and `rpm` and `tpm` come back in a minute: in any minute at most `burst` + `rpm` requests pass. A
request takes one request and the tokens that it may use at most, or a full bucket where they are more than that; what it used more or less is settled afterwards. Only what it used more than
was taken leaves the bucket in debt.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from consilium.engine.ports import Json
from consilium.gateway.keys import KeyRecord

Unit = Literal["requests", "tokens"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a quota said.

    unit                what ran out, or None
    limit               of that unit per minute; 0 where nothing ran out
    retry_after_s       seconds until it would be allowed; 0 where it was
    remaining_requests  after this request; None = no limit; so for tokens, which are never below 0 here
    """

    allowed: bool
    unit: Unit | None = None
    limit: int = 0
    retry_after_s: float = 0.0
    remaining_requests: int | None = None
    remaining_tokens: int | None = None


FREE = Verdict(allowed=True)


class KeyStore(Protocol):
    """Keys by id."""

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return a key, expired and revoked ones too."""

    async def put(self, record: KeyRecord) -> None:
        """Store a key; one with the same id is replaced whole."""

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return every key, oldest first."""

    async def revoke(self, key_id: str, now: float) -> bool:
        """Mark a key as revoked; the first time stays. Return False if there is no such key."""


class QuotaStore(Protocol):
    """Buckets by key id. A limit of 0 is none."""

    async def reserve(
        self, key_id: str, rpm: int, tpm: int, tokens: int, burst: int = 0
    ) -> Verdict:
        """Take one request and the tokens, or all of a full bucket if they are more; both or neither. A burst of 0 is `rpm`."""

    async def settle(self, key_id: str, reserved: int, used: int) -> None:
        """Correct a reservation by what was used. Without a bucket nothing happens."""


class KeyDesk(KeyStore, QuotaStore, Protocol):
    """Keys and quotas in one place, so that a request costs one round trip."""

    async def check(
        self, key_id: str, digest: str, tokens: int
    ) -> tuple[KeyRecord | None, Verdict]:
        """Return the key and take one request and the tokens from its bucket, at once.

        Taken is only from a key that is good: with this digest, neither revoked nor expired by the store's own clock. Another one is returned as it is, with a
        verdict that allows; the caller looks at the record.
        """


class ReceiptStore(Protocol):
    """Receipts by id."""

    async def put(self, receipt_id: str, receipt: Json) -> None:
        """Keep a receipt for the configured time."""

    async def get(self, receipt_id: str) -> Json | None:
        """Return a receipt, or None."""


class ResponseStore(Protocol):
    """Answers of /v1/responses that were asked to be stored, by id."""

    async def put(
        self, response_id: str, response: Json, owner: str = "", *, ttl_s: float | None = None
    ) -> None:
        """Keep an answer for so many seconds, by default as long as receipts are kept. The owner's oldest answers make room for it."""

    async def get(self, response_id: str) -> Json | None:
        """Return an answer, or None."""

    async def delete(self, response_id: str) -> bool:
        """Forget an answer. Return False if there was none."""


class ReplicaStore(Protocol):
    """What each gateway replica says of itself."""

    async def put(self, replica: str, row: Json, kept_s: float) -> None:
        """Keep what a replica says for so many seconds."""

    async def list(self) -> tuple[Json, ...]:
        """Return what the replicas said that have spoken lately, in no order."""

    async def forget(self, replica: str) -> None:
        """Forget a replica."""


@dataclass(frozen=True, slots=True)
class Stores:
    """One backend's stores, and its life.

    close    lets go of it
    prepare  brings its records up to date; raises ConsiliumError(state_newer) where a newer program wrote them, upstream_down where it cannot be asked
    watch    looks at it for as long as it is awaited, so that its state is known also while nobody asks for anything
    """

    keys: KeyDesk
    receipts: ReceiptStore
    responses: ResponseStore
    replicas: ReplicaStore
    close: Callable[[], Awaitable[None]]
    prepare: Callable[[], Awaitable[None]]
    watch: Callable[[], Awaitable[None]]
