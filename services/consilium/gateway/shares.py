"""Who gets the places of an executor when several keys want them: rules about counts, and nothing else.

    a key alone     may fill the engine's batch but for a few places, so that the next key's first request is computed at once
    several keys    while the batch is full, a key gets a new place only below its equal share; what it has above that it keeps until it ends
    who waits       lane first, then the tenant with the least in work, then the key with the least, then whoever came first
    the queue       a quarter of it is for keys below their share, so that one key cannot fill it

Pure. Does not know time, engines or what is asked. A caller without a key (`gateway.auth: false`, the cluster itself) has no share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.engine.ports import LANES, Lane

KEPT_SHARE: Final = 1 / 16
"""Part of the batch that one key alone leaves free."""
KEPT_FROM: Final = 4
"""Fewer places than this are too few to keep one free; so is a queue of fewer than twice as many."""
QUEUE_SHARE: Final = 0.75
"""Part of all that may be in work or wait up to which one key alone is let in."""
STEPS: Final = 9
"""Steps within a lane of the engine's priorities."""


@dataclass(frozen=True, slots=True)
class Who:
    """Whose turn it is: tenant and id of the key; an empty key has no share."""

    tenant: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A turn that waits for a place; `number` says in which order they came."""

    who: Who
    lane: Lane
    number: int


def may_run(who: Who, running: Mapping[Who, int], waiting: Iterable[Who], places: int) -> bool:
    """Say whether a turn gets a place now.

    running  turns in work of each key
    waiting  whose turns wait
    places   what the engine computes at once
    """
    if not who.key:
        return True
    own = running.get(who, 0)
    keys = _keys(who, running, waiting)
    if len(keys) == 1:
        return own < alone(places)
    if sum(running.values()) < places and own < alone(places):
        return True
    return own < math.ceil(places / len(keys))


def may_come(who: Who, held: Mapping[Who, int], limit: int) -> bool:
    """Say whether a turn may come in at all, to work or to wait.

    held   turns in work and waiting of each key
    limit  how many there may be in all
    """
    if not who.key or limit < 2 * KEPT_FROM:
        return True
    if sum(held.values()) < max(1, math.floor(limit * QUEUE_SHARE)):
        return True
    keys = _keys(who, held, ())
    return held.get(who, 0) < max(1, limit // max(2, len(keys)))


def following(waiting: Iterable[Waiting], running: Mapping[Who, int]) -> list[Waiting]:
    """Return those who wait in the order in which they get places."""
    tenants: dict[str, int] = {}
    for who, count in running.items():
        tenants[who.tenant] = tenants.get(who.tenant, 0) + count
    return sorted(
        waiting,
        key=lambda one: (
            LANES.index(one.lane),
            tenants.get(one.who.tenant, 0),
            running.get(one.who, 0),
            one.number,
        ),
    )


def alone(places: int) -> int:
    """Return how many places of the engine one key alone may have."""
    return places - math.ceil(places * KEPT_SHARE) if places >= KEPT_FROM else places


def step(own: int) -> int:
    """Return how far behind the first of its lane a key stands in the engine's own queue that has so many turns in work already."""
    return min(STEPS, own.bit_length())


def _keys(who: Who, counts: Mapping[Who, int], others: Iterable[Who]) -> set[Who]:
    return {who, *(one for one, count in counts.items() if count and one.key), *others}
