"""What 0.1.0 wrote (a dump of its raw records) is read today, and what tomorrow writes is read too: unknown fields are left alone, missing ones have defaults."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from consilium.gateway.backends.redis import ROOM, STEPS, open_stores
from consilium.gateway.config import RedisSettings
from consilium.gateway.keys import DEFAULT_SCOPES, DEFAULT_TENANT, digest, parse, verify
from consilium.kernel.errors import ConsiliumError

OLD = json.loads((Path(__file__).parent / "fixtures/redis_records_0.1.0.json").read_text("utf-8"))
PEPPER = OLD["pepper"].encode()
GOOD, REVOKED = OLD["keys"]["good"], OLD["keys"]["revoked"]


@pytest.fixture
async def stores(own_valkey):
    own_valkey.start()
    found = open_stores(
        RedisSettings(url=SecretStr(own_valkey.url), timeout_s=60), receipt_ttl_s=600
    )
    put = {
        "hash": lambda redis, name, value: redis.hset(name, mapping=value),
        "string": lambda redis, name, value: redis.set(name, value),
        "list": lambda redis, name, value: redis.rpush(name, *value),
    }
    redis = found.keys.server.redis
    for name, record in OLD["records"].items():
        await put[record["type"]](redis, name, record["value"])
        if record["ends"]:
            await redis.expire(name, 600)
    yield found
    await found.close()


def hashed(key):
    return digest(PEPPER, parse(key["text"]).secret)


async def test_old_keys_open_and_revoked_ones_do_not(stores):
    record, verdict = await stores.keys.check(GOOD["id"], hashed(GOOD), 50)
    assert verify(record, hashed(GOOD))
    assert record.refusal(1_790_000_001) is None
    assert (record.name, record.tenant, record.rpm, record.tpm, record.owner) == (
        "Ноутбук",
        "дом",
        60,
        9000,
        "",
    )
    assert record.scopes == {"admin", "generate", "read"}
    assert verdict.allowed
    assert verdict.remaining_requests <= 59, "its bucket goes on"
    revoked, _ = await stores.keys.check(REVOKED["id"], hashed(REVOKED), 50)
    assert revoked.refusal(1_790_000_001) == "This API key was revoked."
    assert [key.id for key in await stores.keys.list()] == [GOOD["id"], REVOKED["id"]]


async def test_old_receipts_and_responses_are_there_and_their_ledgers_go_on(stores):
    assert (await stores.receipts.get("01K6Z0RECEIPT000000000000A"))["text"] == "Привет"
    assert (await stores.responses.get("resp_1"))["number"] == 2.5
    await stores.responses.put("resp_2", {"id": "resp_2"}, GOOD["id"])
    redis, prefix = stores.keys.server.redis, "csl:response"
    assert await redis.lrange(f"{prefix}-ledger:{GOOD['id']}", 0, -1) == ["15 resp_2", "75 resp_1"]
    assert await redis.get(f"{prefix}-bytes:{GOOD['id']}") == "90"


async def test_a_field_that_is_not_known_yet_is_left_alone(stores):
    server = stores.keys.server
    name = server.key("key", GOOD["id"])
    before = await stores.keys.get(GOOD["id"])
    await server.redis.hset(name, mapping={"quota_class": "gold", "id": "another"})
    assert await stores.keys.get(GOOD["id"]) == before
    assert (await stores.keys.check(GOOD["id"], hashed(GOOD), 1))[0] == before
    assert await stores.keys.revoke(GOOD["id"], 5.0)
    assert await server.redis.hget(name, "quota_class") == "gold"


@pytest.mark.parametrize(
    "lacks", ["name", "scopes", "tenant", "rpm", "tpm", "created", "expires", "revoked", "owner"]
)
async def test_a_field_that_lacks_has_its_default(stores, lacks):
    server = stores.keys.server
    await server.redis.hdel(server.key("key", GOOD["id"]), lacks)
    record, verdict = await stores.keys.check(GOOD["id"], hashed(GOOD), 1)
    defaults = {"name": "", "scopes": DEFAULT_SCOPES, "tenant": DEFAULT_TENANT, "owner": ""}
    assert getattr(record, lacks) == defaults.get(lacks, 0)
    assert verdict.allowed


async def test_a_key_without_its_hash_or_with_letters_for_a_number_is_damaged(stores):
    server = stores.keys.server
    name = server.key("key", GOOD["id"])
    await server.redis.hset(name, "rpm", "many")
    with pytest.raises(ConsiliumError, match="damaged"):
        await stores.keys.get(GOOD["id"])
    await server.redis.hdel(name, "rpm", "hmac")
    with pytest.raises(ConsiliumError, match="damaged"):
        await stores.keys.get(GOOD["id"])


async def test_the_records_get_their_version_and_a_newer_one_is_refused(stores, own_valkey):
    server = stores.keys.server
    await stores.prepare()
    schema = server.key(ROOM, "schema")
    assert int(await server.redis.get(schema)) == STEPS[-1].version
    await server.redis.set(schema, STEPS[-1].version + 1)
    later = open_stores(RedisSettings(url=SecretStr(own_valkey.url)), receipt_ttl_s=600)
    try:
        for asked in (later.prepare, lambda: later.keys.get(GOOD["id"])):
            with pytest.raises(ConsiliumError) as caught:
                await asked()
            assert caught.value.code == "state_newer"
            assert "have the version 2, and this program knows 1. Start" in caught.value.public()
    finally:
        await later.close()
