"""The real server goes away, hangs, comes back empty: the gateway goes on, and takes it back by itself."""

import asyncio
import time

import pytest
from pydantic import SecretStr
from tests.waiting import LIMIT_S, sooner_than

from consilium.gateway.authority import RETRY_S, Authority
from consilium.gateway.backends.redis import open_stores
from consilium.gateway.config import RedisSettings
from consilium.gateway.gate import Gate
from consilium.gateway.keys import mint
from consilium.gateway.meter import GatewayMeter
from consilium.kernel.clock import SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.metrics import Metrics

PEPPER = b"pepper"


@pytest.fixture
async def stores(own_valkey):
    own_valkey.start()
    found = open_stores(
        RedisSettings(url=SecretStr(own_valkey.url), timeout_s=4.0), receipt_ttl_s=60
    )
    yield found
    await found.close()


@pytest.fixture
def authority(stores):
    return Authority(stores.keys, pepper=PEPPER, clock=SystemClock(), cache_s=600)


async def new_key(stores):
    text, record = mint(PEPPER, name="k", now=time.time(), rpm=1000, tpm=100_000)
    await stores.keys.put(record)
    return f"Bearer {text}", record


async def _back(authority, header):
    async with asyncio.timeout(LIMIT_S):
        while (await authority.authenticate(header, 1)).source != "redis":  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_killed_and_started_again(stores, authority, own_valkey):
    header, record = await new_key(stores)
    stranger, stranger_record = await new_key(stores)
    assert (await authority.authenticate(header, 5)).source == "redis"
    own_valkey.kill()
    assert (await authority.authenticate(header, 5)).source == "cache"
    await authority.settle(record.id, 5, 7)
    with pytest.raises(ConsiliumError) as caught:
        await authority.authenticate(stranger, 5)
    assert caught.value.code == "upstream_down"
    await stores.receipts.put("r1", {"id": "r1"})
    assert await stores.receipts.get("r1") == {"id": "r1"}
    with pytest.raises(ConsiliumError):
        await stores.receipts.get("r2")
    own_valkey.start()
    await asyncio.sleep(RETRY_S)
    await stores.keys.put(record)
    await stores.keys.put(stranger_record)
    await _back(authority, header)
    assert (await authority.authenticate(stranger, 5)).source == "redis"
    assert await stores.receipts.get("r1") == {"id": "r1"}


async def test_a_server_that_hangs_costs_one_wait_and_not_one_for_each(
    stores, authority, own_valkey
):
    header, _ = await new_key(stores)
    await authority.authenticate(header, 5)
    own_valkey.hold()
    try:
        with sooner_than(100 * 4.0, "one wait for each"):
            for _ in range(101):
                assert (await authority.authenticate(header, 5)).source == "cache"
    finally:
        own_valkey.go_on()
    await _back(authority, header)


async def test_the_gauge_says_whether_it_answers(own_valkey):
    own_valkey.start()
    metrics = Metrics()
    meter = GatewayMeter(metrics, Gate(1))
    stores = open_stores(
        RedisSettings(url=SecretStr(own_valkey.url), timeout_s=4.0),
        receipt_ttl_s=60,
        on_state=meter.redis,
    )
    watching = asyncio.ensure_future(stores.watch())

    async def until(value):
        async with asyncio.timeout(LIMIT_S):
            while f"consilium_gateway_redis_up {value}" not in metrics.page():  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    await until("1.0")
    own_valkey.kill()
    await until("0.0")
    own_valkey.start()
    await until("1.0")
    watching.cancel()
    await stores.close()


async def test_functions_are_loaded_again_after_a_flush(stores, authority):
    header, record = await new_key(stores)
    await authority.authenticate(header, 5)
    redis = stores.keys.server.redis
    await redis.function_flush()
    await redis.flushall()
    await stores.keys.put(record)
    assert (await authority.authenticate(header, 5)).source == "redis"


async def test_a_wrong_password_is_an_outage_and_not_a_traceback(own_valkey):
    own_valkey.start()
    stores = open_stores(
        RedisSettings(url=SecretStr(own_valkey.url.replace("secret", "wrong")), timeout_s=4.0),
        receipt_ttl_s=60,
    )
    with pytest.raises(ConsiliumError) as caught:
        await stores.keys.list()
    assert caught.value.code == "upstream_down"
    assert "wrong" not in caught.value.public()
    await stores.close()


async def test_a_damaged_key_is_named(stores):
    await stores.keys.server.redis.hset("csl:key:abc", "name", "half")
    with pytest.raises(ConsiliumError) as caught:
        await stores.keys.get("abc")
    assert caught.value.code == "data_damaged"


def test_no_address_is_said():
    with pytest.raises(ConsiliumError) as caught:
        open_stores(RedisSettings(), receipt_ttl_s=60)
    assert caught.value.code == "redis_missing"
