"""One contract for every store of quotas: buckets are exact, whoever asks at once."""

import asyncio
import threading
import time

import pytest
from tests.waiting import LIMIT_S

from consilium.gateway.backends.redis import RedisKeys
from consilium.gateway.keys import digest, mint, parse

from .stores import opened


@pytest.fixture(params=["memory", "redis"])
async def quotas(request, valkey):
    async with opened(request.param, valkey) as found:
        yield found.keys


async def test_requests_run_out_and_the_wait_is_told(quotas):
    verdicts = [await quotas.reserve("k", 3, 0, 5) for _ in range(4)]
    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]
    assert [verdict.remaining_requests for verdict in verdicts] == [2, 1, 0, 0]
    last = verdicts[-1]
    assert (last.unit, last.limit) == ("requests", 3)
    assert 18 < last.retry_after_s <= 20
    assert last.remaining_tokens is None


async def test_tokens_run_out_and_neither_is_taken(quotas):
    assert (await quotas.reserve("k", 10, 1000, 900)).remaining_tokens == 100
    refused = await quotas.reserve("k", 10, 1000, 200)
    assert (refused.allowed, refused.unit, refused.limit) == (False, "tokens", 1000)
    assert 5 < refused.retry_after_s <= 6
    assert refused.remaining_requests == 9
    assert (await quotas.reserve("k", 10, 1000, 100)).allowed


async def test_a_request_larger_than_the_bucket_takes_a_full_one_and_leaves_a_debt_if_it_used_more(
    quotas,
):
    assert (await quotas.reserve("k", 0, 1000, 3000)).remaining_tokens == 0
    await quotas.settle("k", 1000, 1000 + 1999)
    refused = await quotas.reserve("k", 0, 1000, 1)
    assert not refused.allowed
    assert 119 < refused.retry_after_s <= 121
    assert refused.remaining_tokens == 0


async def test_settling_gives_back_and_takes_more(quotas):
    await quotas.reserve("k", 0, 1000, 500)
    await quotas.settle("k", 500, 100)
    assert 899 <= (await quotas.reserve("k", 0, 1000, 0)).remaining_tokens <= 990
    await quotas.settle("k", 0, 950)
    refused = await quotas.reserve("k", 0, 1000, 100)
    assert not refused.allowed
    await quotas.settle("k", 5000, 0)
    assert (await quotas.reserve("k", 0, 1000, 0)).remaining_tokens == 1000


async def test_settling_what_was_never_reserved_does_nothing(quotas):
    await quotas.settle("nobody", 5, 500)
    assert (await quotas.reserve("nobody", 0, 1000, 0)).remaining_tokens == 1000


async def test_a_debt_of_a_long_answer_is_not_forgotten(valkey):
    """Its bucket would have been full again long before the answer ended, if the answer had used no more than was taken."""
    async with opened("redis", valkey) as found:
        quotas, server = found.keys, found.keys.server
        name = server.key("quota", "k")
        await quotas.reserve("k", 0, 1000, 300)
        assert await server.redis.ttl(name) > 86_400
        await server.redis.hincrbyfloat(name, "at", -600)  # ten minutes have passed
        await quotas.settle("k", 300, 300 + 12_000)
        refused = await quotas.reserve("k", 0, 1000, 1)
        assert not refused.allowed
        assert 60 < refused.retry_after_s < 120
        assert await server.redis.ttl(name) > 86_400


async def test_who_is_refused_leaves_nothing_in_the_server(valkey):
    async with opened("redis", valkey) as found:
        quotas, server = found.keys, found.keys.server
        for _ in range(50):
            await quotas.reserve("k", 3, 0, 0)
        await quotas.settle("nobody", 5, 500)
        kept = [name async for name in server.redis.scan_iter(server.key("quota-once", "*"))]
        assert len(kept) == 3


async def test_keys_do_not_share(quotas):
    assert (await quotas.reserve("a", 1, 0, 0)).allowed
    assert (await quotas.reserve("b", 1, 0, 0)).allowed
    assert not (await quotas.reserve("a", 1, 0, 0)).allowed


async def test_no_limits_is_no_bucket(quotas):
    verdict = await quotas.reserve("k", 0, 0, 10**9)
    assert (verdict.allowed, verdict.remaining_requests, verdict.remaining_tokens) == (
        True,
        None,
        None,
    )


async def test_a_bucket_fills_again(quotas):
    for _ in range(1200):
        await quotas.reserve("k", 1200, 0, 0)  # 20 come back in a second
    async with asyncio.timeout(LIMIT_S):
        while not (await quotas.reserve("k", 1200, 0, 0)).allowed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def _storm(quotas, *, workers, each, rpm, tpm, tokens):
    async def work():
        return [(await quotas.reserve("storm", rpm, tpm, tokens)).allowed for _ in range(each)]

    began = time.monotonic()
    answers = await asyncio.gather(*(work() for _ in range(workers)))
    return sum(map(sum, answers)), time.monotonic() - began


async def test_exact_under_64_tasks_in_requests(quotas):
    allowed, took_s = await _storm(quotas, workers=64, each=10, rpm=40, tpm=0, tokens=0)
    assert 40 <= allowed <= 40 + int(took_s * 40 / 60)


async def test_exact_under_64_tasks_in_tokens(quotas):
    allowed, took_s = await _storm(quotas, workers=64, each=10, rpm=0, tpm=4100, tokens=100)
    assert 41 <= allowed <= 41 + int((took_s * 4100 / 60 + 1) / 100)


async def test_exact_under_64_threads_with_connections_of_their_own(valkey):
    """Each thread is a gateway of its own: its loop, its client, one server."""
    text, record = mint(b"p", name="storm", now=time.time(), rpm=50)
    hashed = digest(b"p", parse(text).secret)
    async with opened("redis", valkey) as first:
        await first.keys.put(record)
        prefix = first.keys.server.prefix
        allowed, began = [], time.monotonic()

        async def work():
            async with opened("redis", valkey) as own:
                own.keys.server.prefix = prefix
                assert isinstance(own.keys, RedisKeys)
                return sum(
                    [(await own.keys.check(record.id, hashed, 1))[1].allowed for _ in range(5)]
                )

        threads = [
            threading.Thread(target=lambda: allowed.append(asyncio.run(work()))) for _ in range(64)
        ]
        for thread in threads:
            thread.start()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in threads))
        took_s = time.monotonic() - began
    assert len(allowed) == 64
    assert 50 <= sum(allowed) <= 50 + int(took_s * 50 / 60)


async def test_a_burst_of_one_paces_strictly_and_the_default_is_the_limit(quotas):
    for _ in range(2):
        began = time.monotonic()
        first = (await quotas.reserve("one", 1200, 0, 0, 1)).allowed
        second = (await quotas.reserve("one", 1200, 0, 0, 1)).allowed
        assert first
        assert not second or time.monotonic() - began >= 0.05
        await asyncio.sleep(0.06)
    assert (await quotas.reserve("many", 30, 0, 0)).remaining_requests == 29


async def test_the_key_brings_its_burst(quotas):
    text, record = mint(b"p", name="paced", now=time.time(), rpm=30, burst=2)
    await quotas.put(record)
    hashed = digest(b"p", parse(text).secret)
    found = [await quotas.check(record.id, hashed, 0) for _ in range(3)]
    assert [verdict.allowed for _, verdict in found] == [True, True, False]
    assert found[0][0].burst == 2
