"""Who may come in: the key, its scopes and its quota, in one question to the store, and in none while the store is down.

    store answers             key and quota are the store's; a good key is remembered
    key without limits        seen in the last FRESH_S seconds: the store is not asked again, so a revocation takes that long to be seen
    store is down, key seen   within `cache_s`: goes on, with a quota that is counted in this process only
    store is down, key new    upstream_down (503, Retry-After)

Knows keys and verdicts. Does not know Redis or HTTP. The store is asked again at most once per RETRY_S while it is down; each change is logged once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from consilium.gateway.backends.memory import MemoryQuotas
from consilium.gateway.keys import (
    ADMIN,
    ANYONE,
    GENERATE,
    KeyRecord,
    Presented,
    Principal,
    bearer,
    digest,
    principal,
    verify,
)
from consilium.gateway.stores import FREE, KeyDesk, Verdict
from consilium.kernel import logs
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.principals import CLUSTER

T = TypeVar("T")
Source = Literal["redis", "cache", "none"]

RETRY_S: Final = 0.5
FRESH_S: Final = 1.0
KEPT_KEYS: Final = 65_536
CACHE_NOTE: Final = "Redis was down: the key was known from the last minute, and its quota was counted in this gateway only"

_log = logs.get("gateway")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Who came in, and what the quota says.

    source    redis, cache (the store is down), or none (no key is required)
    reserved  tokens that are held until `settle`
    rpm, tpm  limits of the key, 0 = none
    """

    principal: Principal
    verdict: Verdict = FREE
    source: Source = "redis"
    reserved: int = 0
    rpm: int = 0
    tpm: int = 0

    @property
    def key_id(self) -> str:
        """Return the id of the key, empty where none is required."""
        return self.principal.key_id

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a receipt should say about it."""
        return (CACHE_NOTE,) if self.source == "cache" else ()

    def may_read(self, owner: str) -> bool:
        """Say whether what belongs to a key id may be read: by that key, and by admins."""
        return owner == self.principal.key_id or self.principal.may(ADMIN)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that say what is left, as OpenAI names them; none for a key without limits."""
        rows = (
            ("requests", self.rpm, self.verdict.remaining_requests),
            ("tokens", self.tpm, self.verdict.remaining_tokens),
        )
        found: list[tuple[bytes, bytes]] = []
        for unit, limit, left in rows:
            if limit and left is not None:
                found += [
                    (f"x-ratelimit-limit-{unit}".encode(), b"%d" % limit),
                    (f"x-ratelimit-remaining-{unit}".encode(), b"%d" % left),
                ]
        return found


class Authority:
    """Asks the store, and remembers."""

    def __init__(
        self, store: KeyDesk, *, pepper: bytes, clock: Clock, cache_s: float, required: bool = True
    ) -> None:
        """Take the wiring: `pepper` of the key hashes, `cache_s` seconds that a key goes on while the store is down, `required` False to let anyone in."""
        self._store, self._pepper, self._clock, self._cache_s, self._required = (
            store,
            pepper,
            clock,
            cache_s,
            required,
        )
        self._seen: OrderedDict[str, tuple[float, KeyRecord]] = OrderedDict()
        self._local = MemoryQuotas(clock)
        self._down = False
        self._try_at = 0.0

    @property
    def is_down(self) -> bool:
        """Say whether the store did not answer when it was asked last."""
        return self._down

    def check_spelling(self, header: str | None) -> None:
        """Raise ConsiliumError(unauthenticated) if a key is required and this Authorization header holds none. Asks nobody."""
        if self._required:
            _presented(header)

    def forget(self, key_id: str) -> None:
        """Forget a key that was seen: it is asked for again before it opens anything."""
        self._seen.pop(key_id, None)

    async def vouch(self, header: str | None) -> None:
        """Find out whether a header holds a good key, whatever it may do; nothing is taken from its quota.

        Raises ConsiliumError: unauthenticated, upstream_down (store down and key not seen lately).
        """
        if not self._required:
            return
        given = _presented(header)
        hashed = digest(self._pepper, given.secret)
        found = await self._try(lambda: self._store.get(given.id))
        record = found[0] if found is not None else self._recalled(given.id)
        self._check(_proven(record, given.id, hashed), "")

    async def authenticate(
        self, header: str | None, tokens: int, scope: str = GENERATE
    ) -> Admitted:
        """Return who sent this Authorization header, with one request and the tokens taken from the quota.

        Raises ConsiliumError: unauthenticated, forbidden (scope), rate_limited (Retry-After), upstream_down (store down and key not seen lately).
        """
        if not self._required:
            return _anyone(scope)
        given = _presented(header)
        hashed = digest(self._pepper, given.secret)
        found = self._fresh(given.id, hashed) or await self._asked(given.id, hashed, tokens)
        if found is not None:
            record, verdict = found
        else:
            record, verdict = self._recalled(given.id), None
        record = _proven(record, given.id, hashed)
        try:
            self._check(record, scope)
        except ConsiliumError as error:
            if error.code == "forbidden" and found is not None:
                await self.settle(given.id, min(tokens, record.tpm), 0)
            raise
        return self._let_in(record, verdict, tokens)

    async def act_for(self, key_id: str, tokens: int, scope: str = GENERATE) -> Admitted:
        """Return who holds a key, where a room of the cluster asks for them: state, scopes and quota hold as if they asked themselves.

        key_id  id of the key; empty = the cluster itself, which has every scope and no quota

        Raises ConsiliumError as `authenticate` does.
        """
        if not key_id:
            return Admitted(CLUSTER, source="none")
        if not self._required:
            return _anyone(scope)
        found = await self._try(lambda: self._store.get(key_id))
        record = found[0] if found is not None else self._recalled(key_id)
        if record is None:
            raise ConsiliumError(
                "unauthenticated",
                f"key {key_id}",
                reason="The API key that this was asked for does not exist any more.",
            )
        self._check(record, scope)
        if found is None:
            return self._let_in(record, None, tokens)
        self._keep(record)
        taken = await self._try(
            lambda: self._store.reserve(key_id, record.rpm, record.tpm, tokens, record.burst)
        )
        return self._let_in(record, taken[0] if taken is not None else None, tokens)

    def _check(self, record: KeyRecord, scope: str) -> None:
        """Raise ConsiliumError if a key opens nothing any more, or lacks a scope."""
        if (refusal := record.refusal(self._clock.now())) is not None:
            raise ConsiliumError("unauthenticated", f"key {record.id}", reason=refusal)
        if scope and not principal(record).may(scope):
            held = ", ".join(sorted(record.scopes)) or "none"
            raise ConsiliumError(
                "forbidden",
                f"key {record.id}",
                reason=f"This needs the scope {scope!r}; this key has: {held}. 'consilium keys create' makes one that has it: --scopes {scope}.",
            )

    def _let_in(self, record: KeyRecord, verdict: Verdict | None, tokens: int) -> Admitted:
        """Return the holder of a key, or raise ConsiliumError(rate_limited). A verdict of None = the store is down: the quota is counted here."""
        source: Source = "redis" if verdict is not None else "cache"
        if verdict is None:
            verdict = self._local.take(record.id, record.rpm, record.tpm, tokens, record.burst)
        if not verdict.allowed:
            wait_s = max(0.1, math.ceil(verdict.retry_after_s * 10) / 10)
            raise ConsiliumError(
                "rate_limited",
                f"key {record.id}",
                retry_after_s=wait_s,
                limit=verdict.limit,
                unit=verdict.unit,
            )
        return Admitted(
            principal(record),
            verdict,
            source,
            min(tokens, record.tpm),
            record.rpm,
            record.tpm,
        )

    async def settle(self, key_id: str, reserved: int, used: int) -> None:
        """Correct the tokens that were taken by those that were used. Never raises: what the store cannot be told is counted here."""
        if not key_id or not self._is_limited(key_id):
            return
        if not self._down:
            try:
                await self._store.settle(key_id, reserved, used)
            except ConsiliumError as err:
                self._mark_down(err)
            else:
                return
        await self._local.settle(key_id, reserved, used)

    async def _asked(
        self, key_id: str, hashed: str, tokens: int
    ) -> tuple[KeyRecord | None, Verdict] | None:
        """Return the store's answer, or None while it is down."""
        answer = await self._try(lambda: self._store.check(key_id, hashed, tokens))
        if answer is None:
            return None
        self._remember(key_id, answer[0][0], hashed)
        return answer[0]

    async def _try(self, ask: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """Return what the store answers, in a tuple, or None while it is down; it is then asked at most once per RETRY_S."""
        now = self._clock.monotonic()
        if self._down and now < self._try_at:
            return None
        self._try_at = now + RETRY_S
        try:
            answer = await ask()
        except ConsiliumError as err:
            if err.code != "upstream_down":
                raise
            self._mark_down(err)
            return None
        if self._down:
            self._down = False
            _log.info("redis_back")
        return (answer,)

    def _fresh(self, key_id: str, hashed: str) -> tuple[KeyRecord, Verdict] | None:
        """Return a key without limits that the store vouched for a moment ago, or None: then there is something to ask."""
        seen = self._seen.get(key_id)
        if seen is None or self._down or seen[1].rpm or seen[1].tpm:
            return None
        is_fresh = (
            self._clock.monotonic() - seen[0] < FRESH_S
            and seen[1].refusal(self._clock.now()) is None
        )
        return (seen[1], FREE) if is_fresh and verify(seen[1], hashed) else None

    def _mark_down(self, err: ConsiliumError) -> None:
        self._try_at = self._clock.monotonic() + RETRY_S
        if not self._down:
            self._down = True
            self._local = MemoryQuotas(self._clock)
            _log.warning("redis_down", reason=err.detail)

    def _remember(self, key_id: str, record: KeyRecord | None, hashed: str) -> None:
        if record is None:
            self._seen.pop(key_id, None)
        elif verify(record, hashed):
            self._keep(record)

    def _keep(self, record: KeyRecord) -> None:
        self._seen[record.id] = (self._clock.monotonic(), record)
        self._seen.move_to_end(record.id)
        if len(self._seen) > KEPT_KEYS:
            self._seen.popitem(last=False)

    def _recalled(self, key_id: str) -> KeyRecord:
        """Return a key seen lately. Raises ConsiliumError(upstream_down) for another."""
        seen = self._seen.get(key_id)
        if seen is None or self._clock.monotonic() - seen[0] > self._cache_s:
            raise ConsiliumError(
                "upstream_down",
                f"key {key_id} was not seen lately",
                name="The store of API keys",
                retry_after_s=1.0,
            )
        return seen[1]

    def _is_limited(self, key_id: str) -> bool:
        seen = self._seen.get(key_id)
        return seen is None or seen[1].tpm > 0


def _anyone(scope: str) -> Admitted:
    """Return whoever asks where no key is required: they may generate and read, and nothing else. Raises ConsiliumError(forbidden)."""
    if scope and not ANYONE.may(scope):
        raise ConsiliumError(
            "forbidden",
            "gateway.auth is false",
            reason=f"This needs the scope {scope!r}, which nobody has while gateway.auth is false.",
        )
    return Admitted(ANYONE, source="none")


def _proven(record: KeyRecord | None, key_id: str, hashed: str) -> KeyRecord:
    """Return a record whose secret was shown. Raises ConsiliumError(unauthenticated)."""
    if record is None or not verify(record, hashed):
        raise ConsiliumError(
            "unauthenticated",
            f"key {key_id} is unknown or its secret is wrong",
            reason="This API key is not known here.",
        )
    return record


def _presented(header: str | None) -> Presented:
    if not header:
        raise ConsiliumError("unauthenticated")
    given = bearer(header)
    if given is None:
        raise ConsiliumError(
            "unauthenticated",
            reason="The Authorization header holds no API key of this cluster. Send it as 'Authorization: Bearer csl_...'.",
        )
    return given
