"""Every metric of the cards, as others may know them: the page (exposition.py), the catalogue, dashboards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name, kind, labels, unit, and what it says."""

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
    Family(f"{P}info", "gauge", ("uuid", "index", "name", "pci_bus_id", "driver", "mig"), "", "What a card is; always 1."),
    Family(f"{P}up", "gauge", ("uuid",), "", "Whether a card answers: 0 when it has fallen off the bus."),
    Family(f"{P}memory_total_bytes", "gauge", ("uuid",), "bytes", "Memory of a card."),
    Family(f"{P}memory_used_bytes", "gauge", ("uuid",), "bytes", "Memory that processes have, without the driver's own share."),
    Family(f"{P}memory_free_bytes", "gauge", ("uuid",), "bytes", "Memory that is free."),
    Family(f"{P}memory_reserved_bytes", "gauge", ("uuid",), "bytes", "Memory that the driver keeps."),
    Family(f"{P}utilization_ratio", "gauge", ("uuid",), "ratio", "Share of the last second in which a kernel ran; not how full the card was."),
    Family(f"{P}memory_utilization_ratio", "gauge", ("uuid",), "ratio", "Share of the last second in which memory was read or written."),
    Family(f"{P}power_watts", "gauge", ("uuid",), "watts", "Power that is drawn now, by a whole card: NVML tells none of a MIG slice."),
    Family(f"{P}power_limit_watts", "gauge", ("uuid",), "watts", "Power that may be drawn."),
    Family(f"{P}energy_joules_total", "counter", ("uuid",), "joules", "Energy since the driver was loaded, of a whole card: NVML tells none of a MIG slice."),
    Family(f"{P}fan_ratio", "gauge", ("uuid",), "ratio", "Speed of the fan against its fastest."),
    Family(f"{P}temperature_celsius", "gauge", ("uuid", "sensor"), "celsius", "Temperature by sensor."),
    Family(f"{P}clock_hertz", "gauge", ("uuid", "domain"), "hertz", "Clock by domain."),
    Family(f"{P}throttled", "gauge", ("uuid", "reason"), "", "Whether a card is held back now, by reason."),
    Family(f"{P}throttled_seconds_total", "counter", ("uuid", "reason"), "seconds", "Time for which a card was held back, by reason."),
    Family(f"{P}ecc_errors_total", "counter", ("uuid", "type"), "errors", "Memory errors since the driver was loaded."),
    Family(f"{P}xid_errors_total", "counter", ("uuid", "xid"), "errors", "XID errors since this reader was started."),
    Family(f"{P}xid_last_timestamp_seconds", "gauge", ("uuid",), "seconds", "When the last XID error came."),
    Family(f"{P}pcie_link_generation", "gauge", ("uuid", "state"), "", "PCIe generation, now and at most; cards lower it while idle."),
    Family(f"{P}pcie_link_width", "gauge", ("uuid", "state"), "lanes", "PCIe lanes, now and at most."),
    Family(f"{P}pcie_replays_total", "counter", ("uuid",), "packets", "PCIe packets that were sent again."),
    Family(f"{P}nvlinks_up", "gauge", ("uuid",), "links", "NVLinks that are up."),
    Family(f"{P}remapped_rows", "gauge", ("uuid", "type"), "rows", "Rows of memory that were replaced after errors: corrected, uncorrected; pending and failed are 1 where a reset is due, or helps no more."),
    Family(f"{P}pcie_received_bytes_per_second", "gauge", ("uuid",), "bytes per second", "What a card got over PCIe, in 20 ms; told where gpu_metrics.pcie_throughput is set."),
    Family(f"{P}pcie_sent_bytes_per_second", "gauge", ("uuid",), "bytes per second", "What a card sent over PCIe, in 20 ms; told where gpu_metrics.pcie_throughput is set."),
    Family(f"{P}pod_info", "gauge", ("uuid", "namespace", "pod", "container"), "", "A container of Kubernetes that has a card or a slice, alone or with others; always 1."),
    Family(f"{P}kubelet_up", "gauge", (), "", "Whether the kubelet says which pod has which card; told where it is asked."),
    Family(f"{P}electricity_price", "gauge", ("currency",), "currency per kilowatt-hour", "What a kilowatt-hour costs, by gpu_metrics.price_per_kwh; told where it is set."),
    Family(f"{P}process_memory_bytes", "gauge", ("uuid", "executor", "replica"), "bytes", "Memory of a card by executor and replica; other = not ours."),
)  # fmt: skip
