"""What was taken from a key's quota for one request, and that it is settled exactly once.

Knows counts. Does not know keys or stores.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class Reservation:
    """Tokens that are held for one request until what it used is known."""

    def __init__(
        self, key_id: str, tokens: int, settle: Callable[[str, int, int], Awaitable[None]]
    ) -> None:
        """Take what is held; `settle` corrects the quota of a key: (key id, reserved, used)."""
        self._key_id = key_id
        self._settle = settle
        self._open = True
        self.tokens = tokens

    async def settle(self, used: int) -> None:
        """Give back what was not used, or take what was used more. Only the first call does something."""
        if self._open:
            self._open = False
            await self._settle(self._key_id, self.tokens, used)
