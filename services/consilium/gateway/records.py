"""The versions of the gateway's records in Redis, which backends/redis.py lists. A new one is a Step with the kinds of keys that it changes."""

from __future__ import annotations

from typing import Final

from consilium.kernel.redis_steps import Step

ROOM: Final = "gateway"
STEPS: Final = (Step(1),)  # the records of 0.1.0, which had no version yet
