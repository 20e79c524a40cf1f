"""The GPU metrics as a process: a page, and nothing to call."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from consilium.gpu_metrics.attribution import from_proc, owner_of
from consilium.gpu_metrics.config import View
from consilium.gpu_metrics.exposition import Reading, page
from consilium.gpu_metrics.watched import Watched
from consilium.kernel import service
from consilium.kernel.house import House
from consilium.kernel.rooms import GPU_METRICS
from consilium.kernel.service import Wiring


async def build(view: View, house: House) -> Wiring:  # noqa: ARG001  it stands on the driver alone
    """Begin to read, and return what is served."""
    watched = Watched(period_s=view.gpu_metrics.period_s)
    watched.start()
    look = from_proc()

    def told() -> str:
        seen = watched.seen()
        reading = Reading(seen.answers, seen.age_s, seen.restarts, seen.left)
        return page(seen.sample, reading, lambda pid: owner_of(pid, look))

    async def close() -> None:
        watched.stop()

    return Wiring(page=told, aclose=close)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process and return its exit code."""
    return service.main(GPU_METRICS, View, build, argv)


if __name__ == "__main__":
    sys.exit(main())
