"""The GPU metrics as a process: a page, and nothing to call."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from consilium.gpu_metrics.attribution import from_proc, owner_of
from consilium.gpu_metrics.backends.kubelet import Kubelet
from consilium.gpu_metrics.config import View
from consilium.gpu_metrics.exposition import Reading, page
from consilium.gpu_metrics.watched import Watched
from consilium.kernel import service
from consilium.kernel.house import House
from consilium.kernel.rooms import GPU_METRICS
from consilium.kernel.service import Wiring


async def build(view: View, house: House) -> Wiring:  # noqa: ARG001  it asks no other service
    """Begin to read, and return what is served."""
    chosen = view.gpu_metrics
    watched = Watched(period_s=chosen.period_s, pcie_throughput=chosen.pcie_throughput)
    watched.start()
    kubelet = Kubelet(chosen.pod_resources) if chosen.pod_resources else None
    price = None if chosen.price_per_kwh is None else (chosen.price_per_kwh, chosen.currency)
    look = from_proc()

    def told() -> str:
        seen = watched.seen()
        pods = None if kubelet is None else kubelet.seen()
        reading = Reading(seen.answers, seen.age_s, seen.restarts, seen.left, pods, price)
        return page(seen.sample, reading, lambda pid: owner_of(pid, look))

    async def close() -> None:
        watched.stop()

    asking = [] if kubelet is None else [kubelet.watch()]
    return Wiring(background=asking, page=told, aclose=close)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process and return its exit code."""
    return service.main(GPU_METRICS, View, build, argv)


if __name__ == "__main__":
    sys.exit(main())
