"""The message that a call brings: it is waited for, but not for ever.

A call opens with its metadata. Its message follows at once, or slowly, or never: until it is here the call holds none of the places that are kept for work.
Who asks is checked before a long wait begins, and no caller may have many calls that say nothing. Knows calls and callers. Does not know what is asked.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import contextmanager
from typing import Any, Final

from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError

GRACE_S: Final = 0.1
"""Seconds in which nearly every message is here. Only a caller that takes longer is looked up before its message has come."""

SILENT_OF_ONE: Final = 96
SILENT_IN_ALL: Final = 256
"""Calls that may wait for their message at once: of one caller, and of all."""

Vouch = Callable[[Mapping[str, str]], Awaitable[object]]


class Arrivals:
    """Waits for the messages of one server."""

    def __init__(self, limit_s: float, vouch: Vouch | None = None) -> None:
        """Take how long a message may take, and how to find out whether a caller has a good key: `vouch` raises ConsiliumError if not."""
        self._limit_s, self._vouch = limit_s, vouch
        self._silent: Counter[str] = Counter()

    @property
    def silent(self) -> int:
        """Return how many calls wait for their message, those of the first moment aside."""
        return self._silent.total()

    async def first(
        self, requests: AsyncIterator[Any], metadata: Mapping[str, str], *, is_open: bool = False
    ) -> Any:
        """Return the message of a call that brings one.

        is_open  whether it is a call that needs no key

        Raises ConsiliumError: invalid_request (none came, or not in time), queue_full (too many calls say nothing), and what `vouch` raises.
        """
        reading = asyncio.ensure_future(_next(requests))
        try:
            await asyncio.wait({reading}, timeout=GRACE_S)
            if not reading.done():
                await self._late(reading, metadata, is_open=is_open)
            if not reading.done():
                raise _none(f"it did not come within {self._limit_s:g} s of the call's beginning")
            message = reading.result()
        finally:
            reading.cancel()
        if message is None:
            raise _none("the call ended without one")
        return message

    async def each(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Yield the messages of an open stream, which ends when none comes for a while."""
        while True:
            reading = asyncio.ensure_future(_next(requests))
            try:
                await asyncio.wait({reading}, timeout=self._limit_s)
                message = reading.result() if reading.done() else None
            finally:
                reading.cancel()
            if message is None:
                return
            yield message

    async def _late(
        self, reading: asyncio.Future[Any], metadata: Mapping[str, str], *, is_open: bool
    ) -> None:
        with self._counted("" if is_open else metadata.get(calls.AUTHORIZATION_KEY, "")):
            if self._vouch is not None and not is_open:
                await self._vouch(metadata)
            await asyncio.wait({reading}, timeout=max(0.0, self._limit_s - GRACE_S))

    @contextmanager
    def _counted(self, caller: str) -> Any:
        own, in_all = self._silent[caller], self.silent
        if own >= SILENT_OF_ONE or in_all >= SILENT_IN_ALL:
            raise ConsiliumError(
                "queue_full",
                "calls without a message",
                name="Waiting for a message, this server",
                running=own if own >= SILENT_OF_ONE else in_all,
                limit=SILENT_OF_ONE if own >= SILENT_OF_ONE else SILENT_IN_ALL,
                retry_after_s=1.0,
            )
        self._silent[caller] += 1
        try:
            yield
        finally:
            self._silent[caller] -= 1
            if not self._silent[caller]:
                del self._silent[caller]


async def _next(requests: AsyncIterator[Any]) -> Any:
    """Return the next message, or None if there is none."""
    async for message in requests:
        return message
    return None


def _none(reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field="message", reason=reason)
