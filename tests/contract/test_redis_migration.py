"""Records of a room get a new version in one piece: kill -9 of the server or of who asked leaves the old one whole, or the new one whole."""

import asyncio
import contextlib
import random
import subprocess
import sys
import time

import pytest
import redis as sync_redis
from pydantic import SecretStr

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis import RedisServer
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.redis_steps import Step

RECORDS = 6000
KILLS = 20
RENAME = """
for number = 1, 6000 do
  local name = prefix .. ':test:' .. number
  local old = redis.call('HGET', name, 'colour')
  redis.call('HSET', name, 'color', old)
  redis.call('HDEL', name, 'colour')
end
"""
STEPS = (Step(1), Step(2, RENAME, ("test",)))
CHILD = """
import asyncio, sys
from tests.contract.test_redis_migration import STEPS, opened
async def main():
    async with opened(sys.argv[1]) as server:
        print("go", flush=True)
        await server.prepare()
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def opened(url, steps=STEPS):
    settings = RedisSettings(url=SecretStr(url), timeout_s=60)
    server = RedisServer(settings, room="test", steps=steps)
    try:
        yield server
    finally:
        await server.aclose()


async def fill(url):
    async with opened(url, ()) as server, server.redis.pipeline(transaction=False) as pipe:
        pipe.set("csl:test:schema", 1)
        for number in range(1, RECORDS + 1):
            name = f"csl:test:{number}"
            pipe.delete(name)
            pipe.hset(name, mapping={"colour": number, "size": number % 7})
        await pipe.execute()


def shape(url):
    """Return (version, set of the shapes of all records)."""
    with contextlib.closing(sync_redis.Redis.from_url(url, decode_responses=True)) as client:
        pipe = client.pipeline(transaction=False)
        for number in range(1, RECORDS + 1):
            pipe.hgetall(f"csl:test:{number}")
        found = pipe.execute()
        version = int(client.get("csl:test:schema"))
    for number, fields in enumerate(found, 1):
        assert fields.pop("size") == str(number % 7)
        assert list(fields.values()) == [str(number)]
    return version, {next(iter(fields)) for fields in found}


WHOLE = ((1, {"colour"}), (2, {"color"}))


async def test_a_new_program_brings_records_up_to_date_once_and_an_old_one_is_refused(own_valkey):
    own_valkey.start()
    await fill(own_valkey.url)
    async with opened(own_valkey.url) as one, opened(own_valkey.url) as two:
        await asyncio.gather(one.prepare(), two.prepare())
    assert shape(own_valkey.url) == WHOLE[1]
    async with opened(own_valkey.url, STEPS[:1]) as old:
        with pytest.raises(ConsiliumError) as caught:
            await old.ask(lambda redis: redis.get("csl:test:1"))
    assert caught.value.code == "state_newer"
    assert (
        caught.value.public()
        == "The records of test in Redis (csl:test:schema) have the version 2, and this program knows 1. "
        "Start that newer version again, or give this one another redis.prefix or database."
    )
    assert shape(own_valkey.url) == WHOLE[1]


async def test_an_old_program_that_runs_on_hears_of_it_when_it_comes_back(own_valkey):
    own_valkey.start()
    await fill(own_valkey.url)
    async with opened(own_valkey.url, STEPS[:1]) as old:
        await old.prepare()
        async with opened(own_valkey.url) as new:
            await new.prepare()
        await asyncio.sleep(1.2)  # appendfsync everysec
        own_valkey.kill()
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await old.ask(lambda redis: redis.ping())
        own_valkey.start()
        with pytest.raises(ConsiliumError, match="state_newer"):
            await old.ask(lambda redis: redis.ping())


async def test_a_step_that_fails_is_told_and_leaves_the_version_before(own_valkey):
    own_valkey.start()
    await fill(own_valkey.url)
    broken = (Step(1), Step(2, "redis.call('NOSUCH')", ("test",)))
    async with opened(own_valkey.url, broken) as server:
        with pytest.raises(ConsiliumError, match="upstream_down"):
            await server.prepare()
    assert shape(own_valkey.url) == WHOLE[0]


@pytest.mark.timeout(900)
async def test_kill_9_of_the_server_at_20_moments(own_valkey):
    dice = random.Random(5)
    own_valkey.start()
    await fill(own_valkey.url)
    began = time.monotonic()
    async with opened(own_valkey.url) as server:
        await server.prepare()
    whole_s = time.monotonic() - began
    left = []
    for _ in range(KILLS):
        await fill(own_valkey.url)
        await asyncio.sleep(0.05)
        async with opened(own_valkey.url) as server:
            task = asyncio.ensure_future(server.prepare())
            await asyncio.sleep(dice.uniform(0, 1.3 * whole_s))
            own_valkey.kill()
            with contextlib.suppress(ConsiliumError):
                await task
        own_valkey.start()
        found = await asyncio.to_thread(shape, own_valkey.url)
        assert found in WHOLE
        left.append(found[0])
        async with opened(own_valkey.url) as server:
            await server.prepare()
        assert shape(own_valkey.url) == WHOLE[1]
    print(f"killed {KILLS} times: version 1 {left.count(1)} times, 2 {left.count(2)} times")


@pytest.mark.timeout(900)
async def test_kill_9_of_who_asked(own_valkey):
    dice = random.Random(6)
    own_valkey.start()
    for _ in range(4):
        await fill(own_valkey.url)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, own_valkey.url, stdout=subprocess.PIPE
        )
        assert await child.stdout.readline() == b"go\n"
        await asyncio.sleep(dice.uniform(0, 0.06))
        child.kill()
        await child.communicate()
        await asyncio.sleep(0.3)  # a script that has begun is done to its end
        assert await asyncio.to_thread(shape, own_valkey.url) in WHOLE
