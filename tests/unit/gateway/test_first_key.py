"""The key that an owner has made before there was a gateway."""

import pytest

from consilium.gateway import first_key, keys
from consilium.kernel.errors import ConsiliumError

TEXT = "csl_0123456789ab_" + "f" * 48


class Store:
    """Keys in a dict; down for the first calls."""

    def __init__(self, failures=0):
        self.kept, self.failures = {}, failures

    async def get(self, key_id):
        if self.failures:
            self.failures -= 1
            raise ConsiliumError("upstream_down", name="Redis")
        return self.kept.get(key_id)

    async def put(self, record):
        self.kept[record.id] = record


class Clock:
    slept = 0.0

    async def sleep(self, seconds):
        self.slept += seconds


async def test_it_is_there_with_every_scope_as_soon_as_the_store_answers():
    store, clock = Store(failures=2), Clock()
    record = first_key.record_of(f"{TEXT}\n", b"pepper", 5.0)
    await first_key.put_once(record, store, clock)
    assert keys.verify(store.kept["0123456789ab"], keys.digest(b"pepper", "f" * 48))
    assert keys.principal(record).may("anything")
    assert clock.slept == 2 * first_key.RETRY_S


async def test_a_key_that_was_revoked_stays_revoked():
    store = Store()
    store.kept["0123456789ab"] = "revoked"
    await first_key.put_once(first_key.record_of(TEXT, b"pepper", 5.0), store, Clock())
    assert store.kept["0123456789ab"] == "revoked"


def test_what_is_no_key_is_refused_and_not_told():
    with pytest.raises(ConsiliumError, match="CONSILIUM_ADMIN_KEY") as refused:
        first_key.record_of("hunter2", b"pepper", 5.0)
    assert "hunter2" not in str(refused.value)
