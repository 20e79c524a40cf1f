"""The GPUs of this machine as the planner knows cards: for `up`, which refuses what does not fit, and for `plan`, which says so before."""

from __future__ import annotations

from consilium.kernel import gpus
from consilium.planner.cards import Card, from_driver


def read() -> tuple[tuple[Card, ...], str]:
    """Return the cards that a cluster started here would see, and where there are none, why. A card of unknown name and size is left out."""
    seen = gpus.read(visible_only=True)
    found = (from_driver(card.name, card.total_bytes) for card in seen.cards)
    return tuple(card for card in found if card is not None), seen.why_none
