"""Checks of what the gateway stands on: a Redis of one's own, and an address that others reach.

Knows the sections `redis` and `gateway`. Does not know a running gateway.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import redis

from consilium.gateway.config import GatewayView
from consilium.kernel.doctor import Fact, Facts, Row, Subject, Verdict, failure, ok, warning
from consilium.kernel.masking import shown_address
from consilium.kernel.redis import WANTED_MAJOR

LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
ANSWER_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class RedisSeen:
    """What the server at redis.url said.

    why        why it does not answer, or nothing
    version    of Redis or Valkey, empty where the user may not ask
    evicts     maxmemory-policy
    maxmemory  bytes, 0 = no limit
    has_log    append-only file, None where unknown
    """

    address: str
    why: str = ""
    version: str = ""
    evicts: str = ""
    maxmemory: int = 0
    has_log: bool | None = None


def _redis(subject: Subject) -> RedisSeen | None:
    view = subject.view(GatewayView)
    address = view.redis.address() if view is not None else None
    if address is None:
        return None
    shown = shown_address(address)
    try:
        with redis.Redis.from_url(
            address, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S
        ) as client:
            client.ping()
            return _told(client, shown)
    except (redis.RedisError, OSError, ValueError) as err:
        return RedisSeen(shown, why=str(err) or type(err).__name__)


def _told(client: redis.Redis, shown: str) -> RedisSeen:
    try:
        told = dict(client.info())
    except redis.exceptions.NoPermissionError:
        return RedisSeen(shown)
    return RedisSeen(
        shown,
        "",
        str(told.get("valkey_version") or told.get("redis_version", "")),
        str(told.get("maxmemory_policy", "")),
        int(told.get("maxmemory", 0)),
        bool(told["aof_enabled"]) if "aof_enabled" in told else None,
    )


REDIS: Final = Fact("redis", "The Redis at redis.url", _redis, limit_s=5.0)


def _seen(facts: Facts) -> RedisSeen:
    seen = facts[REDIS]
    return seen if seen is not None else RedisSeen("")


def _is_named(facts: Facts) -> bool:
    return facts[REDIS] is not None


def _is_up(facts: Facts) -> bool:
    seen = facts[REDIS]
    return seen is not None and not seen.why


def _answers(facts: Facts) -> Verdict:
    seen = _seen(facts)
    return failure(address=seen.address, why=seen.why) if seen.why else ok(address=seen.address)


def _version(facts: Facts) -> Verdict:
    seen = _seen(facts).version
    said = {"seen": seen, "wanted": WANTED_MAJOR}
    major = seen.partition(".")[0]
    return failure(**said) if major.isdigit() and int(major) < WANTED_MAJOR else ok(**said)


def _evicts(facts: Facts) -> Verdict:
    policy = _seen(facts).evicts
    return ok(policy=policy) if policy in {"", "noeviction"} else warning(policy=policy)


def _log(facts: Facts) -> Verdict:
    return warning() if _seen(facts).has_log is False else ok()


def _open(facts: Facts) -> Verdict:
    view = facts.subject.view(GatewayView)
    if view is not None and not view.gateway.auth and view.gateway.host not in LOOPBACK:
        return warning(host=view.gateway.host)
    return ok()


ROWS: Final = (
    Row(
        "redis_answers",
        "Redis",
        (REDIS,),
        _answers,
        "the server at redis.url ({address}) does not answer: {why}",
        "Start it, correct redis.url, or leave redis.url out to let the cluster start its own.",
        "{address} answers",
        when=_is_named,
    ),
    Row(
        "redis_version",
        "version of Redis",
        (REDIS,),
        _version,
        "the server has version {seen}, and {wanted} or later is needed",
        "Update it, or leave redis.url out.",
        "{seen}",
        when=_is_up,
    ),
    Row(
        "redis_eviction",
        "what Redis forgets",
        (REDIS,),
        _evicts,
        "maxmemory-policy is {policy}: the server may drop keys and jobs when it is full",
        "CONFIG SET maxmemory-policy noeviction, and in its configuration file.",
        when=_is_up,
    ),
    Row(
        "redis_persistence",
        "what Redis keeps",
        (REDIS,),
        _log,
        "the server has no append-only file: keys and jobs are lost when it restarts",
        "Set appendonly yes.",
        when=_is_up,
    ),
    Row(
        "open_face",
        "who may ask",
        (),
        _open,
        "gateway.auth is false and gateway.host is {host}: whoever reaches that address may use this cluster without a key",
        "Set gateway.auth to true, or gateway.host to 127.0.0.1.",
    ),
)
