"""A stream of vLLM's that waits until the engine has taken the request, so that what is refused is refused before the first byte.

vLLM's serving classes return a stream at once, and find out in it that a schema or a grammar is wrong. Knows when the engine took a request (vllm_tap.py),
which is long before there is a token. Does not know what events say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from consilium.engine.backends.vllm_tap import Tap

_END: Final = ""
"""In place of an event: there are no more. vLLM writes no empty ones."""

_TOLD_BEFORE: Final = 2
"""Events that come before the engine is asked: `response.created` and `response.in_progress`. If it is still not asked then, it works under ids that the
tap does not know, as for a beam search, and will not be heard of."""


class Events:
    """The events of one stream. `accepted` comes first; then `before` holds what was said by then, and iterating once gives the rest."""

    def __init__(self, source: AsyncGenerator[str, None]) -> None:
        self._source = source
        self._coming: asyncio.Task[str] | None = None
        self.before: list[str] = []

    async def accepted(self, tap: Tap) -> None:
        """Return when the engine has taken the request. Raises what it was refused with."""
        taken = asyncio.ensure_future(tap.taken.wait())
        try:
            while not tap.taken.is_set():
                self._coming = asyncio.create_task(_next(self._source))
                await asyncio.wait((self._coming, taken), return_when=asyncio.FIRST_COMPLETED)
                if not self._coming.done():
                    continue
                coming, self._coming = self._coming, None
                event = coming.result()
                if tap.refused is not None:
                    raise tap.refused
                if event == _END:
                    return
                self.before.append(event)
                if len(self.before) > _TOLD_BEFORE and not tap.is_asked:
                    return
        finally:
            taken.cancel()

    async def __aiter__(self) -> AsyncGenerator[str, None]:
        """Yield what comes after acceptance."""
        if self._coming is not None:
            event = await self._coming
            self._coming = None
            if event == _END:
                return
            yield event
        async for event in self._source:
            yield event

    async def aclose(self) -> None:
        """Close the stream, which aborts what still runs."""
        if self._coming is not None:
            self._coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._coming
        await self._source.aclose()


async def _next(source: AsyncGenerator[str, None]) -> str:
    return await anext(source, _END)
