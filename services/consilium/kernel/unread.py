"""Callers that have stopped reading what they asked for: a write that waits for one of them ends after a while.

Knows writes and seconds. Does not know HTTP or gRPC.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from consilium.kernel.errors import ConsiliumError

_UNREAD: Final = "the caller has stopped reading its answer"


async def write_within(limit_s: float, write: Awaitable[None]) -> None:
    """Wait for a write. Raises ConsiliumError(deadline), of which `is_unread` says so, if the caller has not read enough for it in time."""
    try:
        async with asyncio.timeout(limit_s):
            await write
    except TimeoutError:
        raise ConsiliumError(
            "deadline", _UNREAD, name="The reader of this stream", seconds=round(limit_s, 1)
        ) from None


def is_unread(error: ConsiliumError) -> bool:
    """Say whether an answer ended because nobody read it."""
    return error.detail == _UNREAD
