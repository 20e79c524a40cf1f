"""/v1/keys: API keys are made, shown and revoked. Admins only.

    GET /v1/keys           all, oldest first
    POST /v1/keys          makes one; its text stands in the answer, this once
    GET /v1/keys/ID        one
    DELETE /v1/keys/ID     revokes it

Each change leaves a line in the log with who made it. Knows the store of keys. Does not know how a key is checked.
"""

from __future__ import annotations

from typing import Any, Final

from consilium.gateway import asgi, key_requests, keys, request_body
from consilium.gateway.http_visit import HttpRoute, Visit
from consilium.gateway.keys import ADMIN, KeyRecord
from consilium.gateway.stores import KeyStore
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError

CREATED: Final = 201

_log = logs.get("audit")


class HttpKeys:
    """Answers /v1/keys. `routes` goes into the table."""

    def __init__(
        self, store: KeyStore, *, pepper: bytes, scopes: frozenset[str], clock: Clock
    ) -> None:
        """Take the wiring: `pepper` of the key hashes, `scopes` that a key may have."""
        self._store, self._pepper, self._scopes, self._clock = store, pepper, scopes, clock

    def routes(self) -> list[HttpRoute]:
        """Return the rows."""
        many = dict.fromkeys(("GET", "HEAD", "POST"), ADMIN)
        one = dict.fromkeys(("GET", "HEAD", "DELETE"), ADMIN)
        return [
            HttpRoute("/v1/keys", many, self.list_or_create),
            HttpRoute("/v1/keys/", one, self.show_or_revoke),
        ]

    async def list_or_create(self, visit: Visit) -> None:
        """GET and POST /v1/keys."""
        admitted = await visit.enter()
        if visit.request.method != "POST":
            now, records = self._clock.now(), await self._store.list()
            rows = [self._shown(visit, record, now) for record in records]
            await visit.answer({"object": "list", "data": rows})
            return
        limits = visit.face.cast.limits
        raw = await request_body.read(visit.request, limits.max_body_bytes)
        body = asgi.parse_object(raw, limits.max_json_depth)
        now = self._clock.now()
        wanted = key_requests.wanted(body, self._scopes, now)
        text, record = keys.mint(self._pepper, **wanted.fields(), now=now)
        await self._store.put(record)
        _log.info(
            "key_made",
            key=record.id,
            scopes=sorted(record.scopes),
            tenant=record.tenant,
            by=admitted.key_id,
        )
        await visit.answer({**self._shown(visit, record, now), "key": text}, status=CREATED)

    async def show_or_revoke(self, visit: Visit) -> None:
        """GET and DELETE /v1/keys/ID; the beginning of an id is enough where it is that of one key."""
        is_over = visit.request.method == "DELETE"
        try:
            admitted = await visit.enter()
            record = await self._named(visit.rest)
            if is_over:
                await self._store.revoke(record.id, self._clock.now())
                visit.face.authority.forget(record.id)
                _log.info("key_revoked", key=record.id, by=admitted.key_id)
                record = await self._named(record.id)
        except ConsiliumError as error:
            if error.code != "upstream_down" or not is_over:
                raise
            raise key_requests.not_revoked(
                visit.rest, visit.face.cast.limits.key_cache_s, error
            ) from None
        await visit.answer(self._shown(visit, record, self._clock.now()))

    def _shown(self, visit: Visit, record: KeyRecord, now: float) -> dict[str, Any]:
        return key_requests.shown(record, now, cache_s=visit.face.cast.limits.key_cache_s)

    async def _named(self, name: str) -> KeyRecord:
        record = await self._store.get(name) if keys.is_id(name) else None
        if record is None:
            key_requests.beginning(name)  # what cannot begin an id costs no look at all keys
            known = await self._store.list()
            found = key_requests.chosen(name, (one.id for one in known))
            record = next(one for one in known if one.id == found)
        return record
