"""The first key of a cluster, which its owner has made before there was anybody to make keys: in Kubernetes it stands in a Secret.

A gateway puts it into the store of keys, with every scope, unless a key of that id is there: one that was revoked stays revoked. Does not know Redis.
"""

from __future__ import annotations

from typing import Final

from consilium.gateway import keys
from consilium.gateway.keys import KeyRecord
from consilium.gateway.stores import KeyStore
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError

NAME: Final = "first"
RETRY_S: Final = 2.0

_log = logs.get("gateway")


def record_of(text: str, pepper: bytes, now: float) -> KeyRecord:
    """Return what is stored of the first key. Raises ConsiliumError(config_invalid) for a text that is no key; the text is not told."""
    given = keys.parse(text.strip())
    if given is None:
        raise ConsiliumError(
            "config_invalid",
            key="CONSILIUM_ADMIN_KEY",
            reason="it is no API key; write csl_, 12 hex digits, _, 48 hex digits",
        )
    return KeyRecord(
        given.id,
        NAME,
        keys.digest(pepper, given.secret),
        scopes=frozenset({keys.ADMIN}),
        created=now,
    )


async def put_once(record: KeyRecord, store: KeyStore, clock: Clock) -> None:
    """Put it into the store unless it is there; while the store is down it is tried again."""
    while True:
        try:
            if await store.get(record.id) is None:
                await store.put(record)
                _log.info("first_key_put", id=record.id)
        except ConsiliumError as error:
            if error.code != "upstream_down":
                raise
            await clock.sleep(RETRY_S)
        else:
            return
