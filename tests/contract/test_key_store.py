"""One contract for every store of keys."""

import time
from dataclasses import replace

import pytest

from consilium.gateway.keys import KeyRecord, digest, mint, parse
from consilium.gateway.stores import FREE

from .stores import opened

PEPPER = b"pepper"


@pytest.fixture(params=["memory", "redis"])
async def stores(request, valkey):
    async with opened(request.param, valkey) as found:
        yield found


def made(name="laptop", **more):
    text, record = mint(PEPPER, name=name, now=time.time(), **more)
    return digest(PEPPER, parse(text).secret), record


async def test_a_key_comes_back_as_it_was_put(stores):
    record = KeyRecord(
        "0123456789ab",
        "Ноутбук 1",
        "d" * 64,
        frozenset({"generate", "admin"}),
        "дом",
        60,
        9000,
        1_700_000_000.25,
        1_800_000_000.5,
        0.0,
    )
    assert await stores.keys.get(record.id) is None
    await stores.keys.put(record)
    assert await stores.keys.get(record.id) == record


async def test_putting_again_replaces_whole(stores):
    _, record = made(rpm=5)
    await stores.keys.put(record)
    await stores.keys.put(replace(record, name="other", rpm=0))
    assert await stores.keys.get(record.id) == replace(record, name="other", rpm=0)


async def test_list_is_by_age(stores):
    assert await stores.keys.list() == ()
    records = [replace(made(f"k{number}")[1], created=float(number)) for number in range(30)]
    for record in reversed(records):
        await stores.keys.put(record)
    assert await stores.keys.list() == tuple(records)


async def test_revoking_keeps_the_first_time(stores):
    hashed, record = made(rpm=3)
    await stores.keys.put(record)
    assert not await stores.keys.revoke("ffffffffffff", 5.0)
    assert await stores.keys.revoke(record.id, 5.5)
    assert await stores.keys.revoke(record.id, 9.0)
    assert (await stores.keys.get(record.id)).revoked == 5.5
    found, verdict = await stores.keys.check(record.id, hashed, 1)
    assert found.revoked == 5.5
    assert verdict == FREE


async def test_check_returns_the_key_and_takes_from_its_bucket(stores):
    hashed, record = made(rpm=3, tpm=1000)
    await stores.keys.put(record)
    found, verdict = await stores.keys.check(record.id, hashed, 100)
    assert found == record
    assert (verdict.allowed, verdict.remaining_requests, verdict.remaining_tokens) == (True, 2, 900)


async def test_check_of_a_key_that_is_not_there(stores):
    assert await stores.keys.check("ffffffffffff", "0" * 64, 10) == (None, FREE)


@pytest.mark.parametrize("how", ["digest", "revoked", "expired"])
async def test_a_key_that_is_not_good_costs_nothing(stores, how):
    hashed, record = made(rpm=2)
    bad = (
        replace(record, revoked=1.0)
        if how == "revoked"
        else replace(record, expires=time.time() - 1)
        if how == "expired"
        else record
    )
    await stores.keys.put(bad)
    for _ in range(5):
        found, verdict = await stores.keys.check(
            record.id, "0" * 64 if how == "digest" else hashed, 1
        )
        assert found == bad
        assert verdict == FREE
    await stores.keys.put(record)
    assert (await stores.keys.check(record.id, hashed, 1))[1].remaining_requests == 1


async def test_a_key_without_limits_has_no_bucket(stores):
    hashed, record = made()
    await stores.keys.put(record)
    assert (await stores.keys.check(record.id, hashed, 10**9))[1] == FREE
