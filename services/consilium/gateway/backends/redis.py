"""The stores in Redis 7 or Valkey: keys as hashes, buckets beside them, documents as JSON with an end.

    <prefix>:key:<id>       hash: hmac, name, scopes, tenant, rpm, tpm, created, expires, revoked
    <prefix>:quota:<id>     hash: a bucket
    <prefix>:receipt:<id>   <prefix>:response:<id>   JSON; beside them :ledger and :bytes of each owner, which keep them within their budget

The rules of the buckets are in quota.lua, loaded as functions when the server does not have them yet. Every failure of the server is upstream_down. Does not
know who asks, nor what to do without a server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import RedisError, ResponseError

from consilium.engine.ports import Json
from consilium.gateway.backends.memory import MAX_BYTES, Documents
from consilium.gateway.config import RedisSettings
from consilium.gateway.keys import KeyRecord
from consilium.gateway.stores import Stores, Unit, Verdict
from consilium.kernel import logs
from consilium.kernel.clock import Clock, SystemClock
from consilium.kernel.errors import ConsiliumError

CONNECTIONS: Final = 64
RETRY_AFTER_S: Final = 1.0
KEPT_LOCALLY: Final = 1024
LOCAL_BYTES: Final = 16 * 2**20
"""Documents of a kind, and their bytes, that are held in this process while the server is down."""

_LUA: Final = (resources.files("consilium.gateway.backends") / "quota.lua").read_text(
    encoding="utf-8"
)
_HASH: Final = hashlib.sha256(_LUA.encode()).hexdigest()[:12]
_LIBRARY: Final = f"#!lua name=csl_{_HASH}\n{_LUA.replace('HASH', _HASH)}"
_UNITS: Final[dict[int, Unit]] = {1: "requests", 2: "tokens"}

T = TypeVar("T")

_log = logs.get("gateway")


@dataclass(slots=True)
class Server:
    """One server, and the two things that every command needs: our functions, and our error."""

    redis: Redis
    prefix: str

    def key(self, kind: str, name: str) -> str:
        """Return the full name of a key."""
        return f"{self.prefix}:{kind}:{name}"

    async def ask(self, command: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a command. Raises ConsiliumError(upstream_down)."""
        try:
            return await command()
        except (RedisError, OSError) as err:
            raise ConsiliumError(
                "upstream_down",
                f"{type(err).__name__}: {err}",
                name="Redis",
                retry_after_s=RETRY_AFTER_S,
            ) from err

    async def call(self, function: str, keys: list[str], *args: str | float) -> Any:
        """Return the answer of one of our functions. Raises ConsiliumError(upstream_down)."""
        name = f"csl_{function}_{_HASH}"
        words = [*keys, *(str(arg) for arg in args)]

        async def once() -> Any:
            try:
                return await self.redis.fcall(name, len(keys), *words)
            except ResponseError as err:
                if "function not found" not in str(err).lower():
                    raise
            await self.redis.function_load(_LIBRARY, replace=True)
            return await self.redis.fcall(name, len(keys), *words)

        return await self.ask(once)


@dataclass(slots=True)
class RedisKeys:
    """Obeys KeyDesk."""

    server: Server

    async def get(self, key_id: str) -> KeyRecord | None:
        """Return a key."""
        fields = await self.server.ask(
            lambda: self.server.redis.hgetall(self.server.key("key", key_id))
        )
        return _record(key_id, fields)

    async def put(self, record: KeyRecord) -> None:
        """Store a key."""
        name = self.server.key("key", record.id)

        async def replace() -> None:
            async with self.server.redis.pipeline(transaction=True) as pipe:
                pipe.delete(name)
                pipe.hset(name, mapping=_fields(record))
                await pipe.execute()

        await self.server.ask(replace)

    async def list(self) -> tuple[KeyRecord, ...]:
        """Return every key, oldest first."""
        start = self.server.key("key", "")

        async def read() -> list[KeyRecord | None]:
            names = [
                name async for name in self.server.redis.scan_iter(match=f"{start}*", count=500)
            ]
            async with self.server.redis.pipeline(transaction=False) as pipe:
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
        return bool(await self.server.call("revoke", [self.server.key("key", key_id)], repr(now)))

    async def reserve(self, key_id: str, rpm: int, tpm: int, tokens: int) -> Verdict:
        """Take one request and the tokens, both or neither."""
        return _verdict(
            await self.server.call("reserve", [self.server.key("quota", key_id)], rpm, tpm, tokens),
            rpm,
            tpm,
        )

    async def settle(self, key_id: str, reserved: int, used: int) -> None:
        """Correct a reservation by what was used."""
        await self.server.call("settle", [self.server.key("quota", key_id)], reserved, used)

    async def check(
        self, key_id: str, digest: str, tokens: int
    ) -> tuple[KeyRecord | None, Verdict]:
        """Return the key, and take from its bucket if it is good: one round trip."""
        keys = [self.server.key("key", key_id), self.server.key("quota", key_id)]
        flat, verdict = await self.server.call("check", keys, digest, tokens)
        record = _record(key_id, dict(zip(flat[::2], flat[1::2], strict=True)))
        return record, _verdict(verdict, record.rpm if record else 0, record.tpm if record else 0)


@dataclass(slots=True)
class RedisDocuments:
    """Obeys ReceiptStore and ResponseStore. What cannot be sent is kept in this process, and found there."""

    server: Server
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
                "keep", names, text, ends_ms, self.max_bytes, document_id, key(self.kind, "")
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
        text = await self.server.ask(
            lambda: self.server.redis.get(self.server.key(self.kind, document_id))
        )
        if text is None:
            return None
        found: Json = json.loads(text)
        return found

    async def delete(self, document_id: str) -> bool:
        """Forget a document, here and there."""
        here = await self.local.delete(document_id)
        there = await self.server.ask(
            lambda: self.server.redis.delete(self.server.key(self.kind, document_id))
        )
        return bool(there) or here


@dataclass(frozen=True, slots=True)
class _Closing:
    server: Server = field(repr=False)

    async def __call__(self) -> None:
        await self.server.redis.aclose()


def connect(settings: RedisSettings) -> Server:
    """Return the server of a configuration, not asked yet. Raises ConsiliumError(redis_missing) without an address."""
    if settings.url is None:
        raise ConsiliumError(
            "redis_missing",
            reason="redis.url is not set, and the address of the cluster's own server is not known here",
        )
    pool = BlockingConnectionPool.from_url(
        settings.url.get_secret_value(),
        max_connections=CONNECTIONS,
        timeout=settings.timeout_s,
        socket_timeout=settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        # One more try where a connection was lost, which a server that was restarted causes; none after a time-out, which may have been counted.
        retry=Retry(NoBackoff(), 1, supported_errors=(LostConnectionError,)),
        decode_responses=True,
        protocol=2,
        driver_info=None,  # else each new connection reads redis-py's package metadata, 5 ms in which nothing else runs, and tells the server in two more calls
    )
    return Server(Redis.from_pool(pool), settings.prefix)


def open_stores(
    settings: RedisSettings,
    *,
    receipt_ttl_s: float,
    receipts_max_bytes: int = MAX_BYTES,
    responses_max_bytes: int = MAX_BYTES,
    clock: Clock | None = None,
) -> Stores:
    """Return stores in one server. Nothing is asked of it yet: it may come later. Raises ConsiliumError(redis_missing) without an address.

    receipts_max_bytes, responses_max_bytes  what receipts may take in all, and stored responses for each key
    """
    server = connect(settings)
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
        _Closing(server),
    )


def _fields(record: KeyRecord) -> dict[Any, Any]:
    return {
        "hmac": record.digest,
        "name": record.name,
        "scopes": " ".join(sorted(record.scopes)),
        "tenant": record.tenant,
        "rpm": record.rpm,
        "tpm": record.tpm,
        "created": repr(record.created),
        "expires": repr(record.expires),
        "revoked": repr(record.revoked),
    }


def _record(key_id: str, fields: Mapping[Any, Any]) -> KeyRecord | None:
    if not fields:
        return None
    try:
        return KeyRecord(
            id=key_id,
            name=fields["name"],
            digest=fields["hmac"],
            scopes=frozenset(fields["scopes"].split()),
            tenant=fields["tenant"],
            rpm=int(fields["rpm"]),
            tpm=int(fields["tpm"]),
            created=float(fields["created"]),
            expires=float(fields["expires"]),
            revoked=float(fields["revoked"]),
        )
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
