"""How the contract tests open each backend."""

import secrets
from contextlib import asynccontextmanager

from pydantic import SecretStr

from consilium.gateway.backends import memory, redis
from consilium.gateway.config import RedisSettings
from consilium.kernel.clock import SystemClock

TTL_S = 3600


@asynccontextmanager
async def opened(backend, valkey, *, ttl_s=TTL_S, max_bytes=2**20):
    if backend == "memory":
        stores = memory.open_stores(SystemClock(), receipt_ttl_s=ttl_s, max_bytes=max_bytes)
    else:
        settings = RedisSettings(
            url=SecretStr(valkey.url), prefix=f"t{secrets.token_hex(4)}", timeout_s=60
        )
        stores = redis.open_stores(
            settings,
            receipt_ttl_s=ttl_s,
            receipts_max_bytes=max_bytes,
            responses_max_bytes=max_bytes,
        )
    try:
        yield stores
    finally:
        await stores.close()
