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


class GpuMetricsView(Section):
    """The part of the tree that is this room's."""

    model_config = Section.model_config | {"extra": "ignore"}

    gpu_metrics: GpuMetrics = Field(default_factory=GpuMetrics)


class View(GpuMetricsView, ServicesView):
    """What the process reads of the tree."""

    model_config = Section.model_config | {"extra": "ignore"}
