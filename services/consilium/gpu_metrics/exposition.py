"""Samples as a page for Prometheus: base units, one name per figure, nothing for what is not known.

Pure. Does not know where samples come from. Source of the format: Prometheus, "Exposition formats", text 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from consilium.gpu_metrics.attribution import Owner
from consilium.gpu_metrics.samples import Card, Sample

Labels = Mapping[str, str]
Row = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, kind, labels besides `uuid`, unit, and what it says."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    unit: str
    help: str


P: Final = "consilium_gpu_"
TABLE: Final = (
    Family(f"{P}driver_up", "gauge", (), "", "Whether the driver answers: 0 while it hangs or is not there."),
    Family(f"{P}sample_age_seconds", "gauge", (), "seconds", "Age of what this page says."),
    Family(f"{P}reader_restarts_total", "counter", (), "restarts", "Readers that were started again after one that hung or ended."),
    Family(f"{P}readers_stuck", "gauge", (), "processes", "Readers that hang in the driver and cannot be ended."),
    Family(f"{P}info", "gauge", ("index", "name", "pci_bus_id", "driver", "mig"), "", "What a card is; always 1."),
    Family(f"{P}up", "gauge", (), "", "Whether a card answers: 0 when it has fallen off the bus."),
    Family(f"{P}memory_total_bytes", "gauge", (), "bytes", "Memory of a card."),
    Family(f"{P}memory_used_bytes", "gauge", (), "bytes", "Memory that processes have, without the driver's own share."),
    Family(f"{P}memory_free_bytes", "gauge", (), "bytes", "Memory that is free."),
    Family(f"{P}memory_reserved_bytes", "gauge", (), "bytes", "Memory that the driver keeps."),
    Family(f"{P}utilization_ratio", "gauge", (), "ratio", "Share of the last second in which a kernel ran; not how full the card was."),
    Family(f"{P}memory_utilization_ratio", "gauge", (), "ratio", "Share of the last second in which memory was read or written."),
    Family(f"{P}power_watts", "gauge", (), "watts", "Power that is drawn now."),
    Family(f"{P}power_limit_watts", "gauge", (), "watts", "Power that may be drawn."),
    Family(f"{P}energy_joules_total", "counter", (), "joules", "Energy since the driver was loaded."),
    Family(f"{P}fan_ratio", "gauge", (), "ratio", "Speed of the fan against its fastest."),
    Family(f"{P}temperature_celsius", "gauge", ("sensor",), "celsius", "Temperature by sensor."),
    Family(f"{P}clock_hertz", "gauge", ("domain",), "hertz", "Clock by domain."),
    Family(f"{P}throttled", "gauge", ("reason",), "", "Whether a card is held back now, by reason."),
    Family(f"{P}throttled_seconds_total", "counter", ("reason",), "seconds", "Time for which a card was held back, by reason."),
    Family(f"{P}ecc_errors_total", "counter", ("type",), "errors", "Memory errors since the driver was loaded."),
    Family(f"{P}xid_errors_total", "counter", ("xid",), "errors", "XID errors since this reader was started."),
    Family(f"{P}xid_last_timestamp_seconds", "gauge", (), "seconds", "When the last XID error came."),
    Family(f"{P}pcie_link_generation", "gauge", ("state",), "", "PCIe generation, now and at most; cards lower it while idle."),
    Family(f"{P}pcie_link_width", "gauge", ("state",), "lanes", "PCIe lanes, now and at most."),
    Family(f"{P}pcie_replays_total", "counter", (), "packets", "PCIe packets that were sent again."),
    Family(f"{P}nvlinks_up", "gauge", (), "links", "NVLinks that are up."),
    Family(f"{P}process_memory_bytes", "gauge", ("executor", "replica"), "bytes", "Memory of a card by executor and replica; other = not ours."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What is told of the reading itself, beside the sample."""

    up: bool
    age_s: float
    restarts: int = 0
    stuck: int = 0


def page(sample: Sample | None, reading: Reading, owner: Callable[[int], Owner]) -> str:
    """Return the page.

    owner  pid -> whose process it is
    """
    rows = _rows(sample, reading, owner)
    out: list[str] = []
    for family in TABLE:
        found = rows.get(family.name)
        if not found:
            continue
        out += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        out += [f"{family.name}{_labels(labels)} {_number(value)}" for labels, value in found]
    return "\n".join(out) + "\n"


def _rows(
    sample: Sample | None, reading: Reading, owner: Callable[[int], Owner]
) -> dict[str, list[Row]]:
    has_cards = sample is not None and bool(sample.cards)
    found: dict[str, list[Row]] = {
        f"{P}driver_up": [({}, float(reading.up and has_cards))],
        f"{P}reader_restarts_total": [({}, float(reading.restarts))],
        f"{P}readers_stuck": [({}, float(reading.stuck))],
    }
    if sample is None:
        return found
    found[f"{P}sample_age_seconds"] = [({}, reading.age_s)]
    for card in sample.cards:
        for name, labels, value in _of_card(card, sample.driver, owner):
            found.setdefault(f"{P}{name}", []).append(({"uuid": card.uuid, **labels}, value))
    return found


def _of_card(
    card: Card, driver: str, owner: Callable[[int], Owner]
) -> Iterator[tuple[str, Labels, float]]:
    yield "up", {}, float(not card.lost)
    if card.lost:
        return
    yield (
        "info",
        {
            "index": str(card.index),
            "name": card.name,
            "pci_bus_id": card.pci_bus_id,
            "driver": driver,
            "mig": str(card.mig).lower(),
        },
        1.0,
    )
    plain: Iterable[tuple[str, float | None]] = (
        ("memory_total_bytes", card.memory_total),
        ("memory_used_bytes", card.memory_used),
        ("memory_free_bytes", card.memory_free),
        ("memory_reserved_bytes", card.memory_reserved),
        ("utilization_ratio", card.utilization),
        ("memory_utilization_ratio", card.memory_utilization),
        ("power_watts", card.power),
        ("power_limit_watts", card.power_limit),
        ("energy_joules_total", card.energy),
        ("fan_ratio", card.fan),
        ("xid_last_timestamp_seconds", card.xid_at),
        ("pcie_replays_total", card.replays),
        ("nvlinks_up", card.nvlinks),
    )
    for name, value in plain:
        if value is not None:
            yield name, {}, float(value)
    labelled: Iterable[tuple[str, str, Mapping[str, float]]] = (
        ("temperature_celsius", "sensor", card.temperatures),
        ("clock_hertz", "domain", card.clocks),
        ("throttled", "reason", card.throttled),
        ("throttled_seconds_total", "reason", card.throttled_s),
        ("ecc_errors_total", "type", card.ecc),
        ("xid_errors_total", "xid", card.xid),
    )
    for name, label, values in labelled:
        for key, value in values.items():
            yield name, {label: key}, float(value)
    link = card.link
    for name, now, most in (
        ("pcie_link_generation", link.generation, link.generation_max),
        ("pcie_link_width", link.width, link.width_max),
    ):
        for state, value in (("current", now), ("max", most)):
            if value is not None:
                yield name, {"state": state}, float(value)
    yield from _of_processes(card, owner)


def _of_processes(card: Card, owner: Callable[[int], Owner]) -> Iterator[tuple[str, Labels, float]]:
    sums: dict[Owner, int] = {}
    for process in card.processes:
        if process.memory_bytes is not None:
            whose = owner(process.pid)
            sums[whose] = sums.get(whose, 0) + process.memory_bytes
    for whose, size in sums.items():
        labels = {"executor": whose.executor, "replica": whose.replica}
        yield "process_memory_bytes", labels, float(size)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
