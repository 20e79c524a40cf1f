"""One contract for every store of what the replicas say of themselves."""

import asyncio

import pytest

from .stores import opened


@pytest.fixture(params=["memory", "redis"])
async def replicas(request, valkey):
    async with opened(request.param, valkey) as found:
        yield found.replicas


async def test_the_last_word_of_each_replica_is_kept(replicas):
    assert await replicas.list() == ()
    await replicas.put("a", {"id": "a", "refused": "nein"}, 60)
    await replicas.put("b", {"id": "b"}, 60)
    await replicas.put("a", {"id": "a", "refused": ""}, 60)
    found = sorted(await replicas.list(), key=lambda row: row["id"])
    assert found == [{"id": "a", "refused": ""}, {"id": "b"}]


async def test_who_says_nothing_more_is_gone(replicas):
    await replicas.put("a", {"id": "a"}, 60)
    await replicas.put("b", {"id": "b"}, 0.05)
    await asyncio.sleep(0.1)
    assert await replicas.list() == ({"id": "a"},)


async def test_who_leaves_is_gone_at_once(replicas):
    await replicas.put("a", {"id": "a"}, 60)
    await replicas.forget("a")
    await replicas.forget("never here")
    assert await replicas.list() == ()
