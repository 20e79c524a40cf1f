"""Callers that have stopped reading what they asked for: a write that waits for one of them ends after a while.

One look in a while at each stream, and no timer for each write: a streamed token is too cheap for that. Knows writes and seconds. Does not know HTTP or gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import TracebackType
from typing import Final, Self

from consilium.kernel.errors import ConsiliumError

_UNREAD: Final = "the caller has stopped reading its answer"
LOOKS: Final = 4
"""Looks at a stream within its limit: a write ends at most that part of it late."""


class Reading:
    """Watches the writes of one stream, one after the other, for as long as its block is open."""

    def __init__(self, limit_s: float) -> None:
        """Take the seconds that one write may wait."""
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._since = 0.0
        self._task: asyncio.Task[object] | None = None
        self._stalled = False
        self._handle: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._look()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()

    async def write(self, write: Awaitable[None]) -> None:
        """Wait for a write. Raises ConsiliumError(deadline), of which `is_unread` says so, if the caller has not read enough for it in time."""
        self._task, self._since = asyncio.current_task(), self._loop.time()
        try:
            await write
        except asyncio.CancelledError:
            if not self._stalled or self._task is None or self._task.uncancel():
                raise  # somebody else ends it
            raise ConsiliumError(
                "deadline",
                _UNREAD,
                name="The reader of this stream",
                seconds=round(self._limit_s, 1),
            ) from None
        finally:
            self._since = 0.0

    def _look(self) -> None:
        """End the write that has waited too long. It is suspended whenever this runs, so the cancellation meets it and nothing else."""
        if self._since and self._loop.time() - self._since >= self._limit_s and self._task:
            self._stalled = True
            self._task.cancel()
            return
        self._handle = self._loop.call_later(self._limit_s / LOOKS, self._look)


def is_unread(error: ConsiliumError) -> bool:
    """Say whether an answer ended because nobody read it."""
    return error.detail == _UNREAD
