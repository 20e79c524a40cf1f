"""Samples as a page for Prometheus: base units, one name per figure, nothing for what is not known.

Pure. Does not know where samples come from. Source of the format: Prometheus, "Exposition formats", text 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from consilium.gpu_metrics.attribution import Owner
from consilium.gpu_metrics.pods import Pods, holders
from consilium.gpu_metrics.ports import TABLE, P
from consilium.gpu_metrics.samples import Card, Sample

Labels = Mapping[str, str]
Row = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is told beside the sample.

    up        whether the driver answers
    restarts  readers that were started again
    stuck     readers that hang in the driver
    pods      what the kubelet says, or None where it is not asked
    price     what a kilowatt-hour costs and in which currency, or None where nobody said
    """

    up: bool
    age_s: float
    restarts: int = 0
    stuck: int = 0
    pods: Pods | None = None
    price: tuple[float, str] | None = None


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
    if reading.price is not None:
        price, currency = reading.price
        found[f"{P}electricity_price"] = [({"currency": currency}, price)]
    if reading.pods is not None:
        cards = () if sample is None else sample.cards
        found[f"{P}kubelet_up"] = [({}, float(reading.pods.answers))]
        found[f"{P}pod_info"] = [
            (asdict(holder), 1.0) for holder in holders(reading.pods.containers, cards)
        ]
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
        ("pcie_received_bytes_per_second", card.link.received),
        ("pcie_sent_bytes_per_second", card.link.sent),
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
        ("remapped_rows", "type", card.remapped),
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
