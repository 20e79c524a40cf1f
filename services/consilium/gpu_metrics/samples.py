"""What was read of the cards at one moment, as values.

None stands for what a card, its driver or its owner's permissions do not tell; it is left out of the page, never shown as 0. Pure. Does not know NVML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Process:
    """A process that has memory on a card.

    pid           as the driver counts it: on the host, whatever container it is in
    memory_bytes  None where the driver does not say, such as in a container without the host's pids
    """

    pid: int
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """PCIe as it is now and as it could be. Cards lower it while idle: compare only under load.

    received, sent  bytes per second, where they are asked for
    """

    generation: int | None = None
    generation_max: int | None = None
    width: int | None = None
    width_max: int | None = None
    received: float | None = None
    sent: float | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One card, or one MIG slice of one.

    index         the driver's number; a slice has that of its card
    minor         number of its device file, by which claims of Kubernetes name it; a slice has none
    lost          it has fallen off the bus: nothing else is known
    memory_*      bytes; `reserved` is the driver's own share, which is not in `used`
    utilization   share of the last second in which a kernel ran, 0 to 1; it says nothing about how full the card was
    power_*       watts
    energy        joules since the driver was loaded, or None
    temperatures  sensor -> degrees Celsius
    clocks        domain -> hertz
    throttled     reason -> whether it holds now
    throttled_s   reason -> seconds since the driver was loaded
    ecc           (type, location) -> errors since they were last cleared
    xid           XID -> how often it came since this reader was started; xid_at is the Unix time of the last one
    replays       PCIe packets that were sent again, since the driver was loaded
    remapped      corrected, uncorrected -> rows of memory that were replaced; pending, failed -> 1 or 0
    nvlinks       links that are up, or None where there are none
    """

    index: int
    uuid: str
    name: str = ""
    pci_bus_id: str = ""
    minor: int | None = None
    mig: bool = False
    lost: bool = False
    memory_total: int | None = None
    memory_used: int | None = None
    memory_free: int | None = None
    memory_reserved: int | None = None
    utilization: float | None = None
    memory_utilization: float | None = None
    power: float | None = None
    power_limit: float | None = None
    energy: float | None = None
    fan: float | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)
    clocks: Mapping[str, float] = field(default_factory=dict)
    throttled: Mapping[str, bool] = field(default_factory=dict)
    throttled_s: Mapping[str, float] = field(default_factory=dict)
    ecc: Mapping[str, int] = field(default_factory=dict)
    xid: Mapping[str, int] = field(default_factory=dict)
    xid_at: float | None = None
    link: Link = field(default_factory=Link)
    replays: int | None = None
    remapped: Mapping[str, int] = field(default_factory=dict)
    nvlinks: int | None = None
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """All cards at one moment.

    at        Unix seconds
    driver    its version
    why_none  why there are no cards, as the end of a sentence
    """

    at: float
    driver: str = ""
    cards: tuple[Card, ...] = ()
    why_none: str = ""


def to_plain(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON can hold it."""
    return asdict(sample)


def from_plain(plain: Mapping[str, Any]) -> Sample:
    """Return what `to_plain` gave. Raises TypeError or KeyError for another thing."""
    cards = tuple(
        Card(
            **{
                **row,
                "link": Link(**row["link"]),
                "processes": tuple(Process(**one) for one in row["processes"]),
            }
        )
        for row in plain["cards"]
    )
    return Sample(**{**plain, "cards": cards})
