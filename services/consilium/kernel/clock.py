"""Time and ids, injectable: a rule takes a `Clock` and `Ids`, a test gives it ones that it moves itself.

Knows seconds and how an id is spelled. Does not know what the ids name.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford base 32: digits and capitals without I, L, O and U, in the order of their codes."""

ULID_LENGTH: Final = 26
_RANDOM_BITS: Final = 80
_TIME_BITS: Final = 48


class Clock(Protocol):
    """What a rule may know of time."""

    def now(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds that never go back, from an arbitrary zero."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait in real time."""
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class FakeClock:
    """A clock that stands still until it is moved. `sleep` moves it and gives other tasks one turn."""

    unix: float = 1_700_000_000.0
    passed: float = 0.0

    def now(self) -> float:
        """Return Unix seconds."""
        return self.unix + self.passed

    def monotonic(self) -> float:
        """Return the seconds it was moved."""
        return self.passed

    def advance(self, seconds: float) -> None:
        """Move it forward. Raises ValueError for a negative number of seconds."""
        if seconds < 0:
            msg = f"time does not go back: {seconds}"
            raise ValueError(msg)
        self.passed += seconds

    async def sleep(self, seconds: float) -> None:
        """Move it forward."""
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)


class Ids(Protocol):
    """Where ids come from."""

    def new(self) -> str:
        """Return an id that was not given before."""


@dataclass(slots=True)
class UlidIds:
    """ULIDs: 48 bits of milliseconds and 80 random bits in 26 characters, so that their order as text is their order in time.

    Within one millisecond, and when the clock goes back, the last number is counted up: ids of one source always rise. Safe in threads.
    """

    clock: Clock = field(default_factory=SystemClock)
    random_bits: Callable[[int], int] = secrets.randbits
    _last: int = 0
    _lock: Lock = field(default_factory=Lock)

    def new(self) -> str:
        """Return the next id."""
        milliseconds = int(self.clock.now() * 1000) & ((1 << _TIME_BITS) - 1)
        with self._lock:
            drawn = milliseconds << _RANDOM_BITS | self.random_bits(_RANDOM_BITS)
            same_or_earlier = milliseconds <= self._last >> _RANDOM_BITS
            self._last = self._last + 1 if same_or_earlier else drawn
            return spell(self._last)


@dataclass(slots=True)
class CountedIds:
    """Ids for tests: id-1, id-2 and so on."""

    prefix: str = "id"
    count: int = 0

    def new(self) -> str:
        """Return the next id."""
        self.count += 1
        return f"{self.prefix}-{self.count}"


def spell(number: int) -> str:
    """Return 128 bits as 26 characters of the alphabet."""
    return "".join(ALPHABET[number >> 5 * place & 31] for place in reversed(range(ULID_LENGTH)))


def time_of(ulid: str) -> float:
    """Return the Unix seconds at which an id was made. Raises ValueError if it is no ULID."""
    if len(ulid) != ULID_LENGTH or any(letter not in ALPHABET for letter in ulid):
        msg = f"no ULID: {ulid!r}"
        raise ValueError(msg)
    number = 0
    for letter in ulid:
        number = number << 5 | ALPHABET.index(letter)
    return (number >> _RANDOM_BITS) / 1000
