"""Work that a room takes by itself, until the cluster begins to stop."""

from __future__ import annotations

import asyncio

from consilium.kernel import logs


class Claims:
    """Counts what it has taken."""

    def __init__(self, draining: asyncio.Event) -> None:
        self.draining = draining
        self.taken = 0

    async def run(self) -> None:
        """Take something every 20 ms, until nothing more may be taken."""
        while not self.draining.is_set():
            self.taken += 1
            await asyncio.sleep(0.02)
        logs.get("greeter").info("claims_ended", taken=self.taken)
