"""One contract for every store of receipts and responses."""

import asyncio

import pytest

from .stores import opened


@pytest.fixture(params=["memory", "redis"])
async def stores(request, valkey):
    async with opened(request.param, valkey) as found:
        yield found


@pytest.fixture(params=["memory", "redis"])
def backend_with_room(request):
    return lambda valkey, max_bytes: opened(request.param, valkey, max_bytes=max_bytes)


@pytest.mark.parametrize("kind", ["receipts", "responses"])
async def test_a_document_comes_back(stores, kind):
    store = getattr(stores, kind)
    document = {"id": "a", "text": "Привет", "numbers": [1, 2.5, None], "deep": {"ok": True}}
    assert await store.get("a") is None
    await store.put("a", document)
    assert await store.get("a") == document
    await store.put("a", {"id": "b"})
    assert await store.get("a") == {"id": "b"}


async def test_what_was_put_is_a_copy(stores):
    document = {"list": [1]}
    await stores.receipts.put("a", document)
    document["list"].append(2)
    assert await stores.receipts.get("a") == {"list": [1]}


async def test_receipts_and_responses_are_apart(stores):
    await stores.receipts.put("a", {"kind": "receipt"})
    assert await stores.responses.get("a") is None


async def test_a_document_ends(stores):
    await stores.responses.put("a", {"x": 1}, ttl_s=0.05)
    await stores.responses.put("b", {"x": 1}, ttl_s=60)
    await asyncio.sleep(0.08)
    assert await stores.responses.get("a") is None
    assert await stores.responses.get("b") == {"x": 1}


async def test_deleting(stores):
    await stores.responses.put("a", {"x": 1})
    assert await stores.responses.delete("a")
    assert not await stores.responses.delete("a")
    assert await stores.responses.get("a") is None


async def test_the_oldest_of_an_owner_make_room(valkey, backend_with_room):
    async with backend_with_room(valkey, 1000) as stores:
        for name in "abcd":
            await stores.responses.put(name, {"text": name * 300}, "one")
        await stores.responses.put("z", {"text": "z" * 300}, "another")
        there = [name for name in "abcdz" if await stores.responses.get(name) is not None]
        assert there == ["b", "c", "d", "z"]


async def test_what_is_larger_than_the_room_is_not_kept(valkey, backend_with_room):
    async with backend_with_room(valkey, 1000) as stores:
        await stores.responses.put("a", {"text": "a" * 300}, "one")
        await stores.responses.put("b", {"text": "b" * 3000}, "one")
        assert await stores.responses.get("b") is None
        assert await stores.responses.get("a") is not None
