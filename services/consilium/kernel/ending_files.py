"""Files beside the configuration by which a cluster on one machine says that it is being stopped. Whoever wants to know looks for them there."""

from __future__ import annotations

from typing import Final

DRAINING: Final = "draining"
"""First: parts that claim work take none any more."""
CLOSING: Final = "closing"
"""A moment later: the gateway refuses new requests."""
