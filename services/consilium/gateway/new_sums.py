"""How many sums of adapters one key may have made in a minute.

Any weights can be asked for, and each new sum costs the room seconds and bytes; one that is stored costs nothing and is not counted. Knows keys by id. Does not know
adapters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consilium.gateway.backends.memory import MemoryQuotas
from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError

DEFAULT: Final = 20
"""Until the room has said lora_router.new_sums_per_minute."""


class NewSums:
    """One per gateway replica."""

    def __init__(self, clock: Clock) -> None:
        self._quotas, self._per_minute = MemoryQuotas(clock), DEFAULT

    def heard(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what the table of adapters says of it."""
        rules = next((raw for raw in rows.values() if raw.get("kind") == "rules"), {})
        self._per_minute = int(rules.get("new_sums_per_minute", DEFAULT))

    def demand(self, key: str) -> None:
        """Count one. Raises ConsiliumError(rate_limited)."""
        verdict = self._quotas.take(key, self._per_minute, 0, 0)
        if not verdict.allowed:
            raise ConsiliumError(
                "rate_limited",
                limit=self._per_minute,
                unit="new sums of adapters",
                retry_after_s=verdict.retry_after_s,
            )
