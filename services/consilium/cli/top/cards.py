"""The cards of a cluster, and what each executor draws of them.

A card's watts and heat are shared evenly by the replicas that hold it. Pure. Does not know pages of other things, or terminals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from consilium.cli.top.page import Page, rows

P: Final = "consilium_gpu_"
GAUGES: Final = frozenset(
    {
        "consilium_engine_gpu_info",
        f"{P}driver_up",
        f"{P}sample_age_seconds",
        f"{P}electricity_price",
        f"{P}info",
        f"{P}up",
        f"{P}memory_total_bytes",
        f"{P}memory_used_bytes",
        f"{P}utilization_ratio",
        f"{P}power_watts",
        f"{P}power_limit_watts",
        f"{P}temperature_celsius",
        f"{P}throttled",
        f"{P}process_memory_bytes",
    }
)
ENERGY: Final = f"{P}energy_joules_total"
OTHER: Final = "other"
"""Executor of processes that are not ours."""

Holder = tuple[str, str]
"""Executor and replica."""


@dataclass(frozen=True, slots=True)
class Card:
    """One card; None = not told.

    used, total  bytes of its memory
    busy         share of the last second in which a kernel ran
    degrees      Celsius, of its hottest sensor
    held_back    reasons for which it is slowed down now
    holders      replicas that hold it
    memory_of    executor -> bytes
    """

    uuid: str
    index: str = ""
    name: str = ""
    is_up: bool = True
    used: float | None = None
    total: float | None = None
    busy: float | None = None
    watts: float | None = None
    limit_watts: float | None = None
    degrees: float | None = None
    held_back: tuple[str, ...] = ()
    holders: tuple[Holder, ...] = ()
    memory_of: Mapping[str, float] = field(default_factory=dict)

    def share(self, executor: str) -> float:
        """Return the part of this card that an executor's replicas have."""
        mine = sum(1 for held_by, _ in self.holders if held_by == executor)
        return mine / len(self.holders) if self.holders else 0.0

    @property
    def executors(self) -> tuple[str, ...]:
        """Return the executors that hold it."""
        return tuple(sorted({executor for executor, _ in self.holders}))


def cards_of(page: Page) -> tuple[Card, ...]:
    """Return the cards that a page tells of, in the order of their numbers. A card that two exporters tell of is there once."""
    told = {labels["uuid"]: labels for labels, _ in rows(page, f"{P}info") if "uuid" in labels}
    uuids = dict.fromkeys(
        labels["uuid"] for labels, _ in rows(page, f"{P}up") if "uuid" in labels
    ) | dict.fromkeys(told)
    plain = {name: _by_uuid(page, name) for name in GAUGES}
    holders = _holders(page)
    cards = [
        Card(
            uuid=uuid,
            index=told.get(uuid, {}).get("index", ""),
            name=told.get(uuid, {}).get("name", ""),
            is_up=plain[f"{P}up"].get(uuid, 1.0) > 0,
            used=plain[f"{P}memory_used_bytes"].get(uuid),
            total=plain[f"{P}memory_total_bytes"].get(uuid),
            busy=plain[f"{P}utilization_ratio"].get(uuid),
            watts=plain[f"{P}power_watts"].get(uuid),
            limit_watts=plain[f"{P}power_limit_watts"].get(uuid),
            degrees=plain[f"{P}temperature_celsius"].get(uuid),
            held_back=_held_back(page, uuid),
            holders=tuple(sorted(holders.get(uuid, ()))),
            memory_of=_memory(page, uuid),
        )
        for uuid in uuids
    ]
    return tuple(sorted(cards, key=lambda card: (card.index.zfill(4), card.uuid)))


def watts_of(cards: Iterable[Card], executor: str) -> float | None:
    """Return what an executor's share of its cards draws; None where that is not known."""
    drawn = [
        card.watts * card.share(executor)
        for card in cards
        if card.watts is not None and card.share(executor)
    ]
    return sum(drawn) if drawn else None


def memory_of(cards: Iterable[Card], executor: str) -> float | None:
    """Return an executor's bytes on its cards: those of its processes where they are told, else its share of what is used."""
    found = [
        card.memory_of.get(executor, (card.used or 0.0) * card.share(executor))
        for card in cards
        if executor in card.memory_of or (card.share(executor) and card.used is not None)
    ]
    return sum(found) if found else None


def price_of(page: Page) -> tuple[float, str] | None:
    """Return what a kilowatt-hour costs and in which currency, where a price is set."""
    return next(
        (
            (value, labels.get("currency", ""))
            for labels, value in rows(page, f"{P}electricity_price")
        ),
        None,
    )


def _by_uuid(page: Page, name: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for labels, value in rows(page, name):
        uuid = labels.get("uuid", "")
        found[uuid] = max(value, found.get(uuid, value))
    return found


def _held_back(page: Page, uuid: str) -> tuple[str, ...]:
    return tuple(
        sorted(
            {
                labels.get("reason", "")
                for labels, value in rows(page, f"{P}throttled")
                if value and labels.get("uuid") == uuid
            }
        )
    )


def _holders(page: Page) -> dict[str, set[Holder]]:
    """Return who holds which card: as the engines say, or, where none does, as the driver's list of processes does."""
    for name in ("consilium_engine_gpu_info", f"{P}process_memory_bytes"):
        found: dict[str, set[Holder]] = {}
        for labels, _ in rows(page, name):
            executor = labels.get("executor", "")
            if executor not in ("", OTHER):
                found.setdefault(labels.get("uuid", ""), set()).add(
                    (executor, labels.get("replica", ""))
                )
        if found:
            return found
    return {}


def _memory(page: Page, uuid: str) -> dict[str, float]:
    found: dict[tuple[str, str], float] = {}
    for labels, value in rows(page, f"{P}process_memory_bytes"):
        if labels.get("uuid") == uuid:
            key = (labels.get("executor", ""), labels.get("replica", ""))
            found[key] = max(value, found.get(key, 0.0))
    by_executor: dict[str, float] = {}
    for (executor, _), value in found.items():
        by_executor[executor] = by_executor.get(executor, 0.0) + value
    return by_executor
