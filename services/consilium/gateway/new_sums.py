"""How many sums of adapters one key may have made in a minute.

Any weights can be asked for, and each new sum costs the room seconds and bytes; one that is stored costs nothing and is not counted. Knows keys by id. Does not know
adapters.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from consilium.kernel.clock import Clock
from consilium.kernel.errors import ConsiliumError

DEFAULT: Final = 20
"""Until the room has said lora_router.new_sums_per_minute."""
MOST_KEYS: Final = 10_000
MINUTE_S: Final = 60.0


class NewSums:
    """One per gateway replica: a bucket for each key, which fills up within a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._per_minute = clock, DEFAULT
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._under_way: Counter[tuple[str, ...]] = Counter()

    def heard(self, rows: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what the table of adapters says of it."""
        rules = next((raw for raw in rows.values() if raw.get("kind") == "rules"), {})
        self._per_minute = int(rules.get("new_sums_per_minute", DEFAULT))

    @contextmanager
    def made(self, key: str, parts: Sequence[str]) -> Iterator[None]:
        """Count a sum that is made while the block runs. Whoever asks for the same one meanwhile waits for that making, so it counts once.

        Raises ConsiliumError(rate_limited).
        """
        what = tuple(parts)
        if not self._under_way[what]:
            self.demand(key)
        self._under_way[what] += 1
        try:
            yield
        finally:
            self._under_way[what] -= 1
            self._under_way += Counter()  # keeps what is still under way

    def demand(self, key: str) -> None:
        """Count one. Raises ConsiliumError(rate_limited)."""
        most, now = self._per_minute, self._clock.monotonic()
        left, at = self._left.pop(key, (float(most), now))
        left = min(float(most), left + (now - at) * most / MINUTE_S)
        self._left[key] = (left - 1 if left >= 1 else left), now
        while len(self._left) > MOST_KEYS:
            self._left.popitem(last=False)
        if left < 1:
            raise ConsiliumError(
                "rate_limited",
                limit=most,
                unit="new sums of adapters",
                retry_after_s=(1 - left) * MINUTE_S / most,
            )
