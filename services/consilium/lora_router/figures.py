"""The room's own figures: what is registered and proved, what the store holds, and which replicas report.

What engines do with adapters they count themselves. Knows desk and counters. Does not know Prometheus.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

from consilium.kernel.clock import Clock
from consilium.lora_router.desk import Desk
from consilium.lora_router.identity import MIX
from consilium.lora_router.ports import Placement, Proof

EVERY_S: Final = 5.0
"""A replica that falls silent is no event, so it is looked for."""


class Gauges(Protocol):
    """Where figures go: kernel.metrics.Metrics."""

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set one."""


class Figures:
    """One per process."""

    def __init__(self, desk: Desk, metrics: Gauges, clock: Clock) -> None:
        self._desk, self._metrics, self._clock = desk, metrics, clock
        self._executors: set[str] = set()

    def tell(self) -> None:
        """Set every figure as it is now."""
        library = self._desk.library
        kept = Counter(row.placement for row in library.names() if row.name != MIX)
        for placement in Placement:
            self._metrics.set("consilium_lora_adapters", kept[placement], placement=str(placement))
        proofs = Counter(version.proof for version in library.versions() if version.name != MIX)
        proofs[Proof.DAMAGED] = sum(len(library.holdings.holders(sha)) for sha in library.damaged)
        for proof in Proof:
            self._metrics.set("consilium_lora_versions", proofs[proof], proof=str(proof))
        self._metrics.set("consilium_lora_not_taken_in", len(self._desk.not_taken_in))
        self._metrics.set("consilium_lora_store_bytes", library.stored_bytes)
        self._metrics.set("consilium_lora_store_quota_bytes", library.quota_bytes)
        replicas = Counter(report.executor for report in self._desk.fleet.speaking())
        self._executors |= replicas.keys()
        for executor in self._executors:
            self._metrics.set("consilium_lora_replicas", replicas[executor], executor=executor)

    async def run(self) -> None:
        """Tell again and again, until cancelled."""
        while True:
            self.tell()
            await self._clock.sleep(EVERY_S)
