"""The adapters as a process: gRPC for people, engines and gateways, HTTP for files."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from consilium.kernel import service
from consilium.kernel.house import House
from consilium.kernel.process import set_variable
from consilium.kernel.rooms import LORA_ROUTER
from consilium.kernel.service import Wiring
from consilium.lora_router import grpc_over_http, routes, servicer
from consilium.lora_router.config import View
from consilium.lora_router.figures import Figures


async def build(view: View, house: House) -> Wiring:
    """Open the store, and return what is served."""
    set_variable("OPENBLAS_NUM_THREADS", "1")  # small products: its threads wait for one another
    from consilium.lora_router.opening import Room  # noqa: PLC0415  brings numpy, after that

    room = await Room.open(view, house.folder / "lora_router", house.clock)
    live = room.follow(house.config, house.clock)
    figures = Figures(room.desk, house.metrics, house.clock)
    room.library.changed = figures.tell

    def offered(result: str) -> None:
        house.metrics.add("consilium_lora_offered_total", result=result)

    for result in routes.RESULTS:
        house.metrics.add("consilium_lora_offered_total", 0, result=result)
    others = grpc_over_http.routes(room.servicer)
    return Wiring(
        services=[servicer.service(room.servicer)],
        http=routes.application(room.arrivals, room.take, others, offered),
        tables=[room.table],
        background=[
            live.run(),
            room.configure(),
            room.desk.run(),
            room.arrivals.run(),
            figures.run(),
        ],
        drain=room.drain,
        aclose=room.aclose,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process and return its exit code."""
    return service.main(LORA_ROUTER, View, build, argv)


if __name__ == "__main__":
    sys.exit(main())
