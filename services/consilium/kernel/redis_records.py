"""What is kept in Redis, seen from outside of a running cluster: its version, the copies made before steps, who uses it, and the way back to a copy.

Each call is one connection, opened and closed. Raises RedisError or OSError where the server does not answer. Knows the library.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from redis import Redis
from redis.exceptions import NoPermissionError

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.redis_config import RedisSettings
from consilium.kernel.redis_steps import RESTORE

RESTORES_S = 600.0


@dataclass(frozen=True, slots=True)
class Copy:
    """The records as they were before a step.

    version  of the step
    at       when, in seconds of Unix
    kinds    kinds of keys that it holds
    """

    version: int
    at: int
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """The records of a room: their version, 0 where there are none, and the copies, the newest first."""

    version: int
    copies: tuple[Copy, ...]

    def back_to(self, known: int) -> Copy | None:
        """Return the copy from which a program that knows this version can go on, or None where one on the way back lacks."""
        steps = range(known + 1, self.version + 1)
        found = {copy.version: copy for copy in self.copies}
        return found.get(known + 1) if all(step in found for step in steps) else None


def look(settings: RedisSettings, room: str) -> Stored:
    """Return what is stored of a room."""
    with _opened(settings) as redis:
        version = int(redis.get(f"{settings.prefix}:{room}:schema") or 0)
        copies = []
        for number in range(version, 0, -1):
            at, kinds = redis.hmget(f"{settings.prefix}:before:{room}:{number}", "at", "kinds")
            if at:
                copies.append(Copy(number, int(at), tuple(str(kinds).split())))
    return Stored(version, tuple(copies))


def users(settings: RedisSettings, room: str) -> int | None:
    """Return how many connections the programs of a room have, or None where the server does not tell us."""
    named = f"{settings.prefix}-{room}"
    with _opened(settings) as redis:
        try:
            return sum(
                one.get("name", "") in (named, f"{named}-waits") for one in redis.client_list()
            )
        except NoPermissionError:
            return None


def restore(settings: RedisSettings, room: str, version: int) -> int:
    """Put back the records as they were before the step to `version`, and return the version that they have then. What came later is lost.

    Nobody may use them meanwhile. Raises ConsiliumError(conflict) if a copy on the way back lacks; then nothing was changed.
    """
    with _opened(settings, RESTORES_S) as redis:
        name = f"{settings.prefix}:{room}:schema"
        at, lacks = redis.eval(RESTORE, 1, name, version, settings.prefix, room)
    if lacks:
        raise ConsiliumError(
            "conflict",
            reason=f"There is no copy of the records of {room} from before version {lacks}; nothing was changed.",
        )
    return int(at)


@contextmanager
def _opened(settings: RedisSettings, timeout_s: float = 0.0) -> Iterator[Redis]:
    address = settings.address()
    if address is None:
        raise ConsiliumError("redis_missing", reason="redis.url is not set")
    with Redis.from_url(
        address,
        socket_timeout=timeout_s or settings.timeout_s,
        socket_connect_timeout=settings.timeout_s,
        decode_responses=True,
    ) as redis:
        yield redis
