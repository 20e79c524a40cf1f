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
    kwh_price: float | None = Field(
        None,
        ge=0,
        description="Price of a kilowatt hour, in whatever money you count in; empty = energy is told, and no money.",
    )


class View(ServicesView):
    """What the process reads of the tree."""

    gpu_metrics: GpuMetrics = Field(default_factory=GpuMetrics)
