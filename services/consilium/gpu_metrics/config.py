"""What can be set of the GPU metrics."""

from __future__ import annotations

from pydantic import Field

from consilium.kernel.config import Section
from consilium.kernel.service_config import ServicesView


class GpuMetrics(Section):
    """The section `gpu_metrics` of the configuration."""

    period_s: float = Field(
        1.0, ge=0.2, le=60, description="Seconds between two readings of the cards."
    )
    price_per_kwh: float | None = Field(
        None,
        ge=0,
        description="What a kilowatt-hour costs, for the cost of a million tokens; unset = not told.",
    )
    currency: str = Field(
        "EUR", pattern="^[A-Z]{3}$", description="Currency of price_per_kwh, as in ISO 4217."
    )
    pcie_throughput: bool = Field(
        False,
        description="Also read what goes over PCIe; each card holds the reading up for 40 ms.",
    )
    pod_resources: str = Field(
        "",
        description="The kubelet's socket, to say which pod has which card; empty = not asked. The chart sets it.",
    )


class GpuMetricsView(Section):
    """The part of the tree that is this room's."""

    model_config = Section.model_config | {"extra": "ignore"}

    gpu_metrics: GpuMetrics = Field(default_factory=GpuMetrics)


class View(GpuMetricsView, ServicesView):
    """What the process reads of the tree."""

    model_config = Section.model_config | {"extra": "ignore"}
