"""The stores in this process: for tests, and for quotas and receipts while Redis is down.

Obeys the same contract as Redis. What is kept is bounded: the oldest entry makes room. Does not know other processes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final

from consilium.engine.ports import Json
from consilium.gateway.keys import KeyRecord, verify
from consilium.gateway.stores import FREE, Stores, Unit, Verdict
from consilium.kernel.clock import Clock

MINUTE_S: Final = 60.0
KEPT_DOCUMENTS: Final = 4096
KEPT_BUCKETS: Final = 65_536
MAX_BYTES: Final = 64 * 2**20


@dataclass(slots=True)
class Bucket:
    """What is left of one key's minute, at a time in monotonic seconds."""

    requests: float
    tokens: float
    tpm: int
    at: float


@dataclass(slots=True)
class MemoryQuotas:
    """Obeys QuotaStore. Safe in threads."""

    clock: Clock
    _buckets: OrderedDict[str, Bucket] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)

    async def reserve(
        self, key_id: str, rpm: int, tpm: int, tokens: int, burst: int = 0
    ) -> Verdict:
        """Take one request and the tokens, both or neither."""
        return self.take(key_id, rpm, tpm, tokens, burst)

    def take(self, key_id: str, rpm: int, tpm: int, tokens: int, burst: int = 0) -> Verdict:
        """Do what `reserve` says, without waiting for anything."""
        if not rpm and not tpm:
            return FREE
        now = self.clock.monotonic()
        with self._lock:
            bucket = self._filled(key_id, rpm, tpm, burst or rpm, now)
            need = min(tokens, tpm)
            if rpm and bucket.requests < 1:
                return _refused("requests", rpm, 1 - bucket.requests, bucket, rpm)
            if tpm and bucket.tokens < need:
                return _refused("tokens", tpm, need - bucket.tokens, bucket, rpm)
            bucket.requests -= 1
            bucket.tokens -= need
            return Verdict(True, None, 0, 0.0, *_left(bucket, rpm))

    async def settle(self, key_id: str, reserved: int, used: int) -> None:
        """Correct a reservation by what was used."""
        with self._lock:
            if (bucket := self._buckets.get(key_id)) is not None:
                bucket.tokens = min(bucket.tpm, bucket.tokens + reserved - used)

    def _filled(self, key_id: str, rpm: int, tpm: int, burst: int, now: float) -> Bucket:
        bucket = self._buckets.get(key_id)
        if bucket is None:
            bucket = self._buckets[key_id] = Bucket(burst, tpm, tpm, now)
            if len(self._buckets) > KEPT_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key_id)
        passed = max(0.0, now - bucket.at) / MINUTE_S
        bucket.requests = min(burst, bucket.requests + passed * rpm)
        bucket.tokens = min(tpm, bucket.tokens + passed * tpm)
        bucket.tpm, bucket.at = tpm, now
        return bucket


class MemoryKeys(MemoryQuotas):
    """Obeys KeyDesk."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._keys: dict[str, KeyRecord] = {}

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return a key."""
        return self._keys.get(key_id)

    async def put(self, record: KeyRecord) -> None:
        """Store a key."""
        self._keys[record.id] = record

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return every key, oldest first."""
        return tuple(sorted(self._keys.values(), key=lambda record: (record.created, record.id)))

    async def revoke(self, key_id: str, now: float) -> bool:
        """Mark a key as revoked."""
        record = self._keys.get(key_id)
        if record is not None and not record.revoked:
            self._keys[key_id] = replace(record, revoked=now)
        return record is not None

    async def check(
        self, key_id: str, digest: str, tokens: int
    ) -> tuple[KeyRecord | None, Verdict]:
        """Return the key, and take from its bucket if it is good."""
        record = self._keys.get(key_id)
        if record is None or not verify(record, digest) or record.refusal(self.clock.now()):
            return record, FREE
        return record, self.take(key_id, record.rpm, record.tpm, tokens, record.burst)


@dataclass(slots=True)
class Documents:
    """JSON documents with an end, at most `kept` of them and `max_bytes` characters for each owner. A copy goes in and a copy comes out."""

    clock: Clock
    ttl_s: float
    kept: int = KEPT_DOCUMENTS
    max_bytes: int = MAX_BYTES
    _found: OrderedDict[str, tuple[float, str, str]] = field(default_factory=OrderedDict)
    _held: dict[str, int] = field(default_factory=dict)

    async def put(
        self, document_id: str, document: Json, owner: str = "", *, ttl_s: float | None = None
    ) -> None:
        """Keep a document. The oldest make room; one that is larger than all that room is not kept."""
        ends = self.clock.monotonic() + (self.ttl_s if ttl_s is None else ttl_s)
        text = json.dumps(document, ensure_ascii=False)
        self._forget(document_id)
        if len(text) > self.max_bytes:
            return
        self._found[document_id] = (ends, owner, text)
        self._held[owner] = self._held.get(owner, 0) + len(text)
        while len(self._found) > self.kept:
            self._forget(next(iter(self._found)))
        while self._held.get(owner, 0) > self.max_bytes:
            self._forget(
                next(name for name, (_, its, _text) in self._found.items() if its == owner)
            )

    def _forget(self, document_id: str) -> None:
        _, owner, text = self._found.pop(document_id, (0.0, "", ""))
        left = self._held.get(owner, 0) - len(text)
        if left > 0:
            self._held[owner] = left
        else:
            self._held.pop(owner, None)

    async def get(self, document_id: str) -> Json | None:
        """Return a document, or None."""
        ends, _, text = self._found.get(document_id, (0.0, "", ""))
        if not text or self.clock.monotonic() >= ends:
            self._forget(document_id)
            return None
        found: Json = json.loads(text)
        return found

    async def delete(self, document_id: str) -> bool:
        """Forget a document."""
        there = await self.get(document_id) is not None
        self._forget(document_id)
        return there


@dataclass(slots=True)
class MemoryReplicas:
    """Obeys ReplicaStore."""

    clock: Clock
    _rows: dict[str, tuple[float, str]] = field(default_factory=dict)

    async def put(self, replica: str, row: Json, kept_s: float) -> None:
        """Keep what a replica says for so many seconds."""
        self._rows[replica] = (self.clock.monotonic() + kept_s, json.dumps(row))

    async def list(self) -> tuple[Json, ...]:
        """Return what the replicas said that have spoken lately."""
        now = self.clock.monotonic()
        self._rows = {name: kept for name, kept in self._rows.items() if kept[0] > now}
        return tuple(json.loads(text) for _, text in self._rows.values())

    async def forget(self, replica: str) -> None:
        """Forget a replica."""
        self._rows.pop(replica, None)


def open_stores(clock: Clock, *, receipt_ttl_s: float, max_bytes: int = MAX_BYTES) -> Stores:
    """Return stores that live as long as this process."""

    async def nothing() -> None:
        return None

    return Stores(
        MemoryKeys(clock),
        Documents(clock, receipt_ttl_s, max_bytes=max_bytes),
        Documents(clock, receipt_ttl_s, max_bytes=max_bytes),
        MemoryReplicas(clock),
        nothing,
        nothing,
        nothing,
    )


def _left(bucket: Bucket, rpm: int) -> tuple[int | None, int | None]:
    return (
        int(bucket.requests) if rpm else None,
        max(0, int(bucket.tokens)) if bucket.tpm else None,
    )


def _refused(unit: Unit, limit: int, missing: float, bucket: Bucket, rpm: int) -> Verdict:
    return Verdict(False, unit, limit, missing * MINUTE_S / limit, *_left(bucket, rpm))
