"""The stores in Redis 7 or Valkey: keys as hashes, buckets beside them, documents as JSON with an end.

    <prefix>:key:<id>       hash: hmac, name, scopes, tenant, owner, rpm, tpm, burst, created, expires, revoked
    <prefix>:quota:<id>     hash: a bucket
    <prefix>:quota-once:<id>   what one call that changed a bucket was answered, for a minute
    <prefix>:replica:<id>   what a gateway replica holds, for some seconds; <prefix>:replicas:gateway names them
    <prefix>:receipt:<id>   <prefix>:response:<id>   JSON; beside them :ledger and :bytes of each owner, which keep them within their budget

The rules of the buckets are in quota.lua. Connections, Lua and errors are kernel/redis.py's. Does not know who asks, nor what to do without a server.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from redis.asyncio import Redis

from consilium.engine.ports import Json
from consilium.gateway.backends.memory import MAX_BYTES, Documents
from consilium.gateway.keys import KeyRecord
from consilium.gateway.records import ROOM, STEPS
from consilium.gateway.stores import Stores, Unit, Verdict
from consilium.kernel import logs
from consilium.kernel.clock import Clock, SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis import Functions, RedisServer
from consilium.kernel.redis_config import RedisSettings

KEPT_LOCALLY: Final = 1024
LOCAL_BYTES: Final = 16 * 2**20
"""Documents of a kind, and their bytes, that are held in this process while the server is down."""

FUNCTIONS: Final = Functions(
    (resources.files("consilium.gateway.backends") / "quota.lua").read_text(encoding="utf-8")
)
_UNITS: Final[dict[int, Unit]] = {1: "requests", 2: "tokens"}

_log = logs.get("gateway")


@dataclass(slots=True)
class RedisKeys:
    """Obeys KeyDesk."""

    server: RedisServer

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return a key."""
        name = self.server.key("key", key_id)
        fields = await self.server.ask(lambda redis: redis.hgetall(name))
        return _record(key_id, fields)

    async def put(self, record: KeyRecord) -> None:
        """Store a key."""
        name = self.server.key("key", record.id)

        async def replace(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                pipe.delete(name)
                pipe.hset(name, mapping=_fields(record))
                await pipe.execute()

        await self.server.ask(replace)

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return every key, oldest first."""
        start = self.server.key("key", "")

        async def read(redis: Redis) -> list[KeyRecord | None]:
            names = [name async for name in redis.scan_iter(match=f"{start}*", count=500)]
            async with redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hgetall(name)
                rows = await pipe.execute()
            return [
                _record(name.removeprefix(start), fields)
                for name, fields in zip(names, rows, strict=True)
            ]

        found = {record.id: record for record in await self.server.ask(read) if record is not None}
        return tuple(sorted(found.values(), key=lambda record: (record.created, record.id)))

    async def revoke(self, key_id: str, now: float) -> bool:
        """Mark a key as revoked."""
        return bool(
            await self.server.call(FUNCTIONS, "revoke", [self.server.key("key", key_id)], repr(now))
        )

    async def reserve(
        self, key_id: str, rpm: int, tpm: int, tokens: int, burst: int = 0
    ) -> Verdict:
        """Take one request and the tokens, both or neither."""
        return _verdict(
            await self.server.call(
                FUNCTIONS, "reserve", self._bucket(key_id), rpm, tpm, tokens, burst
            ),
            rpm,
            tpm,
        )

    async def settle(self, key_id: str, reserved: int, used: int) -> None:
        """Correct a reservation by what was used."""
        await self.server.call(FUNCTIONS, "settle", self._bucket(key_id), reserved, used)

    async def check(
        self, key_id: str, digest: str, tokens: int
    ) -> tuple[KeyRecord | None, Verdict]:
        """Return the key, and take from its bucket if it is good: one round trip."""
        keys = [self.server.key("key", key_id), *self._bucket(key_id)]
        flat, verdict = await self.server.call(FUNCTIONS, "check", keys, digest, tokens)
        record = _record(key_id, dict(zip(flat[::2], flat[1::2], strict=True)))
        return record, _verdict(verdict, record.rpm if record else 0, record.tpm if record else 0)

    def _bucket(self, key_id: str) -> Sequence[str]:
        """Return the names of a key's bucket and of one call that changes it. By the second a call that is repeated is known, and not counted twice."""
        return [
            self.server.key("quota", key_id),
            self.server.key("quota-once", secrets.token_hex(12)),
        ]


@dataclass(slots=True)
class RedisDocuments:
    """Obeys ReceiptStore and ResponseStore. What cannot be sent is kept in this process, and found there."""

    server: RedisServer
    kind: str
    ttl_s: float
    max_bytes: int
    local: Documents

    async def put(
        self, document_id: str, document: Json, owner: str = "", *, ttl_s: float | None = None
    ) -> None:
        """Keep a document: in the server, else here. The owner's oldest make room for it; one that is larger than all that room is not kept."""
        key = self.server.key
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        ends_ms = max(1, round(1000 * (self.ttl_s if ttl_s is None else ttl_s)))
        names = [
            key(self.kind, document_id),
            key(f"{self.kind}-ledger", owner),
            key(f"{self.kind}-bytes", owner),
        ]
        try:
            is_kept = await self.server.call(
                FUNCTIONS,
                "keep",
                names,
                text,
                ends_ms,
                self.max_bytes,
                document_id,
                key(self.kind, ""),
            )
        except ConsiliumError:
            await self.local.put(document_id, document, owner, ttl_s=ttl_s)
        else:
            if not is_kept:
                _log.warning(
                    "document_too_large",
                    kind=self.kind,
                    id=document_id,
                    size=len(text),
                    limit=self.max_bytes,
                )

    async def get(self, document_id: str) -> Json | None:
        """Return a document, or None. Raises ConsiliumError(upstream_down) if it is not here and the server cannot be asked."""
        if (here := await self.local.get(document_id)) is not None:
            return here
        name = self.server.key(self.kind, document_id)
        text = await self.server.ask(lambda redis: redis.get(name))
        if text is None:
            return None
        found: Json = json.loads(text)
        return found

    async def delete(self, document_id: str) -> bool:
        """Forget a document, here and there."""
        here = await self.local.delete(document_id)
        name = self.server.key(self.kind, document_id)
        there = await self.server.ask(lambda redis: redis.delete(name))
        return bool(there) or here


@dataclass(slots=True)
class RedisReplicas:
    """Obeys ReplicaStore. A set names the replicas; the row of one that says nothing more ends by itself, by the server's own clock."""

    server: RedisServer

    async def put(self, replica: str, row: Json, kept_s: float) -> None:
        """Keep what a replica says for so many seconds."""
        text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))

        async def write(redis: Redis) -> None:
            async with redis.pipeline(transaction=False) as pipe:
                pipe.sadd(self._names, replica)
                pipe.set(self._row(replica), text, px=round(1000 * kept_s))
                await pipe.execute()

        await self.server.ask(write)

    async def list(self) -> tuple[Json, ...]:
        """Return what the replicas said that have spoken lately."""

        async def read(redis: Redis) -> tuple[Json, ...]:
            names = sorted(str(name) for name in await redis.smembers(self._names))
            if not names:
                return ()
            texts = await redis.mget([self._row(name) for name in names])
            gone = [name for name, text in zip(names, texts, strict=True) if text is None]
            if gone:
                await redis.srem(self._names, *gone)
            return tuple(json.loads(text) for text in texts if text is not None)

        return await self.server.ask(read)

    async def forget(self, replica: str) -> None:
        """Forget a replica."""
        await self.server.ask(lambda redis: redis.delete(self._row(replica)))

    @property
    def _names(self) -> str:
        return self.server.key("replicas", "gateway")

    def _row(self, replica: str) -> str:
        return self.server.key("replica", replica)


def open_stores(
    settings: RedisSettings,
    *,
    receipt_ttl_s: float,
    receipts_max_bytes: int = MAX_BYTES,
    responses_max_bytes: int = MAX_BYTES,
    clock: Clock | None = None,
    on_state: Callable[[bool], object] | None = None,
) -> Stores:
    """Return stores in one server. Nothing is asked of it yet: it may come later. Raises ConsiliumError(redis_missing) without an address.

    on_state  is told when the server answers again, and when it no longer does
    receipts_max_bytes, responses_max_bytes  what receipts may take in all, and stored responses for each key
    """
    server = RedisServer(settings, room=ROOM, steps=STEPS, on_state=on_state)
    own = clock if clock is not None else SystemClock()

    def documents(kind: str, max_bytes: int) -> RedisDocuments:
        return RedisDocuments(
            server,
            kind,
            receipt_ttl_s,
            max_bytes,
            Documents(own, receipt_ttl_s, KEPT_LOCALLY, LOCAL_BYTES),
        )

    return Stores(
        RedisKeys(server),
        documents("receipt", receipts_max_bytes),
        documents("response", responses_max_bytes),
        RedisReplicas(server),
        server.aclose,
        server.prepare,
        server.watch,
    )


def _scopes(text: str) -> frozenset[str]:
    return frozenset(text.split())


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "name": str,
    "scopes": _scopes,
    "tenant": str,
    "owner": str,
    "rpm": int,
    "tpm": int,
    "burst": int,
    "created": float,
    "expires": float,
    "revoked": float,
}
"""Fields of a key beside its hash, by their names in the record."""


def _fields(record: KeyRecord) -> dict[Any, Any]:
    return {
        "hmac": record.digest,
        "name": record.name,
        "scopes": " ".join(sorted(record.scopes)),
        "tenant": record.tenant,
        "owner": record.owner,
        "rpm": record.rpm,
        "tpm": record.tpm,
        "burst": record.burst,
        "created": repr(record.created),
        "expires": repr(record.expires),
        "revoked": repr(record.revoked),
    }


def _record(key_id: str, fields: Mapping[Any, Any]) -> KeyRecord | None:
    """Return the key of a hash. Fields that it lacks have the defaults of KeyRecord, fields that nobody here knows are ignored: other versions wrote them."""
    if not fields:
        return None
    try:
        known = {name: read(fields[name]) for name, read in _READ.items() if name in fields}
        return KeyRecord(id=key_id, name=known.pop("name", ""), digest=fields["hmac"], **known)
    except (KeyError, ValueError) as err:
        raise ConsiliumError(
            "data_damaged",
            f"{type(err).__name__}: {err}",
            reason=f"the stored API key {key_id} is damaged; make a new one",
        ) from err


def _verdict(raw: list[Any], rpm: int, tpm: int) -> Verdict:
    allowed, unit, wait, requests, tokens = (
        int(raw[0]),
        int(raw[1]),
        float(raw[2]),
        int(raw[3]),
        int(raw[4]),
    )
    limit = {1: rpm, 2: tpm}.get(unit, 0)
    return Verdict(
        bool(allowed),
        _UNITS.get(unit),
        limit,
        wait,
        requests if requests >= 0 else None,
        tokens if tokens >= 0 else None,
    )
