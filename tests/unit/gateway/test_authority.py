"""Who comes in: with the store there, with it gone, and when it is back."""

import asyncio
from dataclasses import replace

import pytest
import structlog

from consilium.gateway.authority import FRESH_S, RETRY_S, Authority
from consilium.gateway.backends.memory import MemoryKeys
from consilium.gateway.keys import mint
from consilium.kernel.clock import FakeClock
from consilium.kernel.errors import ConsiliumError

PEPPER = b"pepper"


class Fragile(MemoryKeys):
    """A store that can be taken away."""

    def __init__(self, clock):
        super().__init__(clock)
        self.down = False
        self.asked = 0

    def _there(self):
        self.asked += 1
        if self.down:
            raise ConsiliumError("upstream_down", "gone", name="Redis", retry_after_s=1.0)

    async def check(self, *args):
        self._there()
        return await super().check(*args)

    async def get(self, *args):
        self._there()
        return await super().get(*args)

    async def reserve(self, *args):
        self._there()
        return await super().reserve(*args)

    async def settle(self, *args):
        self._there()
        await super().settle(*args)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def store(clock):
    return Fragile(clock)


@pytest.fixture
def authority(store, clock):
    return Authority(store, pepper=PEPPER, clock=clock, cache_s=60)


async def key(store, clock, **more):
    text, record = mint(PEPPER, name="laptop", now=clock.now(), **more)
    await store.put(record)
    return f"Bearer {text}", record


async def refused(authority, header, code, *, tokens=1, scope="generate"):
    with pytest.raises(ConsiliumError) as caught:
        await authority.authenticate(header, tokens, scope)
    assert caught.value.code == code
    return caught.value


async def test_a_good_key_comes_in(authority, store, clock):
    header, record = await key(store, clock, rpm=10, tpm=1000)
    admitted = await authority.authenticate(header, 100)
    assert (admitted.key_id, admitted.principal.name, admitted.source, admitted.reserved) == (
        record.id,
        "laptop",
        "redis",
        100,
    )
    assert admitted.notes == ()
    assert dict(admitted.headers()) == {
        b"x-ratelimit-limit-requests": b"10",
        b"x-ratelimit-remaining-requests": b"9",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"900",
    }


@pytest.mark.parametrize("header", [None, "", "Bearer nonsense", "Basic eA=="])
async def test_no_key_and_another_spelling(authority, store, header):
    error = await refused(authority, header, "unauthenticated")
    assert "csl_" in error.public()
    assert store.asked == 0


async def test_an_unknown_key_and_a_wrong_secret_read_the_same(authority, store, clock):
    header, _ = await key(store, clock)
    unknown = await refused(authority, "Bearer csl_0123456789ab_" + "0" * 48, "unauthenticated")
    wrong = await refused(
        authority, header[:-1] + ("0" if header[-1] != "0" else "1"), "unauthenticated"
    )
    assert unknown.public() == wrong.public()


async def test_expired_and_revoked(authority, store, clock):
    header, record = await key(store, clock, lifetime_s=10)
    await authority.authenticate(header, 1)
    clock.advance(11)
    assert "expired" in (await refused(authority, header, "unauthenticated")).public()
    await store.put(replace(record, expires=0.0, revoked=clock.now()))
    assert "revoked" in (await refused(authority, header, "unauthenticated")).public()


async def test_a_missing_scope_is_named(authority, store, clock):
    header, _ = await key(store, clock, scopes=frozenset({"read"}))
    assert "'generate'" in (await refused(authority, header, "forbidden")).public()
    assert (await authority.authenticate(header, 0, "read")).principal.may("read")


async def test_over_the_limit_says_when(authority, store, clock):
    header, _ = await key(store, clock, rpm=2)
    await authority.authenticate(header, 1)
    await authority.authenticate(header, 1)
    error = await refused(authority, header, "rate_limited")
    assert error.retry_after_s == 30.0
    assert "2 requests per minute" in error.public()
    clock.advance(30.1)
    await authority.authenticate(header, 1)


async def test_settling_gives_back(authority, store, clock):
    header, record = await key(store, clock, tpm=1000)
    await authority.authenticate(header, 1000)
    await refused(authority, header, "rate_limited", tokens=500)
    await authority.settle(record.id, 1000, 200)
    await authority.authenticate(header, 500)


async def test_seen_keys_go_on_for_a_minute_and_say_so(authority, store, clock):
    header, _ = await key(store, clock)
    await authority.authenticate(header, 1)
    store.down = True
    clock.advance(59)
    admitted = await authority.authenticate(header, 1)
    assert admitted.source == "cache"
    assert "Redis was down" in admitted.notes[0]
    clock.advance(2)
    assert (await refused(authority, header, "upstream_down")).retry_after_s == 1.0


async def test_unknown_keys_wait_for_the_store(authority, store, clock):
    header, _ = await key(store, clock)
    store.down = True
    error = await refused(authority, header, "upstream_down")
    assert error.row.http == 503
    assert error.retry_after_s == 1.0


async def test_a_wrong_secret_of_a_seen_key_is_refused_without_the_store(authority, store, clock):
    header, _ = await key(store, clock)
    await authority.authenticate(header, 1)
    store.down = True
    clock.advance(FRESH_S)
    await refused(authority, header[:-1] + ("0" if header[-1] != "0" else "1"), "unauthenticated")


async def test_a_local_bucket_counts_while_the_store_is_down(authority, store, clock):
    header, record = await key(store, clock, rpm=2, tpm=1000)
    await authority.authenticate(header, 1)
    store.down = True
    await authority.authenticate(header, 1000)
    assert "tokens" in (await refused(authority, header, "rate_limited", tokens=500)).public()
    await authority.settle(record.id, 1000, 0)
    await authority.authenticate(header, 1)
    assert "requests" in (await refused(authority, header, "rate_limited")).public()


async def test_the_store_is_asked_seldom_while_down_and_taken_back_by_itself(
    authority, store, clock
):
    header, _ = await key(store, clock, rpm=1000)
    await authority.authenticate(header, 1)
    store.down = True
    asked = store.asked
    for _ in range(50):
        await authority.authenticate(header, 1)
    assert store.asked == asked + 1
    store.down = False
    assert (await authority.authenticate(header, 1)).source == "cache"
    clock.advance(RETRY_S)
    assert (await authority.authenticate(header, 1)).source == "redis"
    assert not authority.is_down


async def test_each_change_is_logged_once(authority, store, clock):
    header, record = await key(store, clock, tpm=1000)
    with structlog.testing.capture_logs() as lines:
        await authority.authenticate(header, 1)
        store.down = True
        for _ in range(5):
            await authority.settle(record.id, 1, 1)
            clock.advance(RETRY_S)
            await authority.authenticate(header, 1)
        store.down = False
        clock.advance(RETRY_S)
        await asyncio.gather(*(authority.authenticate(header, 1) for _ in range(5)))
    assert [line["event"] for line in lines] == ["redis_down", "redis_back"]


async def test_damaged_keys_are_no_outage(authority, store, clock, monkeypatch):
    async def damaged(*_):
        raise ConsiliumError("data_damaged", reason="the stored key is damaged")

    header, _ = await key(store, clock)
    monkeypatch.setattr(store, "check", damaged)
    await refused(authority, header, "data_damaged")
    assert not authority.is_down


async def test_without_keys_anyone_comes_in(store, clock):
    open_door = Authority(store, pepper=PEPPER, clock=clock, cache_s=60, required=False)
    admitted = await open_door.authenticate(None, 5)
    assert (admitted.key_id, admitted.source, admitted.reserved, admitted.headers()) == (
        "",
        "none",
        0,
        [],
    )
    await open_door.settle(admitted.key_id, 0, 5)
    assert store.asked == 0


async def test_who_may_read_what(authority, store, clock):
    header, record = await key(store, clock)
    admitted = await authority.authenticate(header, 1)
    assert admitted.may_read(record.id)
    assert not admitted.may_read("another")
    admin, _ = await key(store, clock, scopes=frozenset({"admin"}))
    assert (await authority.authenticate(admin, 1)).may_read("another")


async def test_a_key_without_limits_is_asked_for_once_in_a_while(authority, store, clock):
    header, record = await key(store, clock)
    for _ in range(20):
        assert (await authority.authenticate(header, 1)).source == "redis"
    assert store.asked == 1
    await store.revoke(record.id, clock.now())
    clock.advance(FRESH_S)
    assert "revoked" in (await refused(authority, header, "unauthenticated")).public()
    assert store.asked == 2


async def test_a_wrong_secret_of_a_fresh_key_is_still_refused(authority, store, clock):
    header, _ = await key(store, clock)
    await authority.authenticate(header, 1)
    await refused(authority, header[:-1] + ("0" if header[-1] != "0" else "1"), "unauthenticated")
    await authority.authenticate(header, 1)


async def test_a_key_with_limits_is_asked_for_each_time(authority, store, clock):
    header, _ = await key(store, clock, rpm=100)
    for _ in range(5):
        await authority.authenticate(header, 1)
    assert store.asked == 5


async def test_a_room_acts_for_a_key_also_while_the_store_is_down(authority, store, clock):
    header, record = await key(store, clock, rpm=10, tpm=1000, owner="ann")
    admitted = await authority.act_for(record.id, 100)
    assert (admitted.key_id, admitted.principal.owner, admitted.reserved) == (record.id, "ann", 100)
    store.down = True
    again = await authority.act_for(record.id, 100)
    assert (again.source, again.notes != ()) == ("cache", True)
    with pytest.raises(ConsiliumError) as caught:
        await authority.act_for("0" * 12, 1)
    assert caught.value.code == "upstream_down"
    clock.passed += RETRY_S
    store.down = False
    assert (await authority.act_for(record.id, 1)).source == "redis"
    assert (await authority.authenticate(header, 1)).key_id == record.id


async def test_a_key_that_a_room_acted_for_is_still_known_by_its_secret_alone(
    authority, store, clock
):
    _, record = await key(store, clock)
    await authority.act_for(record.id, 1)
    await refused(authority, f"Bearer csl_{record.id}_{'0' * 48}", "unauthenticated")


async def test_the_cluster_itself_has_no_quota(authority, store):
    admitted = await authority.act_for("", 10**9)
    assert (admitted.key_id, admitted.reserved, store.asked) == ("", 0, 0)
