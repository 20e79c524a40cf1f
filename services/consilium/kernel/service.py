"""A room as a process: from its row, its part of the configuration and a function that builds it, to a running service.

    class View(ServicesView):
        greeter: Greeter = Field(default_factory=Greeter)

    async def build(view: View, house: House) -> Wiring:
        return Wiring(services=[servicer.service(...)])

    def main(argv: Sequence[str] | None = None) -> int:
        return service.main(ROOM, View, build, argv)

Command line: --config FILE [--listen HOST:PORT] [--http HOST:PORT] [--metrics HOST:PORT] [--settle SECONDS]; an address that is not given is that of the configuration's
services.<name>. Knows the life of such a process: logs, servers, page, drain. Does not know what is served.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from consilium.kernel import grpc_server, inner_http, logs
from consilium.kernel.config import added_rooms, folder_of, internal_token, load_view
from consilium.kernel.grpc_server import GrpcServer, Service, Settings
from consilium.kernel.house import House
from consilium.kernel.http_server import Asgi, HttpServer
from consilium.kernel.inner_auth import InnerAuth
from consilium.kernel.inner_http import InnerHttp, Page
from consilium.kernel.process import raise_descriptor_limit, run
from consilium.kernel.rooms import Room, rooms
from consilium.kernel.service_config import (
    MAX_BODY_KEY,
    LimitView,
    Places,
    ServicesView,
    places,
)
from consilium.kernel.table_service import TableServicer
from consilium.kernel.table_service import service as tables_service
from consilium.kernel.tables import Table

V = TypeVar("V", bound=ServicesView)

CLOSING_SHARE: Final = 0.2
"""Share of the grace period, at most a second of it, that is kept for letting go after the calls."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a room serves, and what it does beside that.

    services           gRPC services
    http               ASGI application of its inner HTTP; token and principal are checked before it, errors are told behind it
    tables             what the gateway follows
    background         what runs while the process does; one that fails ends the process, and all are cancelled once the calls are over
    drain              lets what the room does by itself finish within so many seconds, beside the calls; called when the process is told to end
    aclose             lets go of what `build` has opened
    page               more figures for the room's page, in the text format
    max_message_bytes  longest gRPC request; None = what the public face takes, gateway.max_body_bytes
    """

    services: Sequence[Service] = ()
    http: Asgi | None = None
    tables: Sequence[Table] = ()
    background: Sequence[Coroutine[Any, Any, None]] = ()
    drain: Callable[[float], Awaitable[None]] | None = None
    aclose: Callable[[], Awaitable[None]] | None = None
    page: Callable[[], str] | None = None
    max_message_bytes: int | None = None


Build = Callable[[V, House], Awaitable[Wiring]]


def main(room: Room, view: type[V], build: Build[V], argv: Sequence[str] | None = None) -> int:
    """Run a room and return the exit code.

    view   the sections that it reads
    build  opens what the room stands on, and returns what is served
    """
    parser = argparse.ArgumentParser(prog=f"python -m {room.module}")
    parser.add_argument("--config", type=Path, required=True, help="resolved JSON, or YAML")
    for flag, what in (("listen", "gRPC"), ("http", "inner HTTP"), ("metrics", "the metrics page")):
        parser.add_argument(f"--{flag}", metavar="HOST:PORT", help=f"address of {what}")
    parser.add_argument(
        "--settle",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="time between NOT_SERVING and refusing calls, for endpoints to be taken out",
    )
    chosen = parser.parse_args(argv)
    return run(_RoomProcess(room, view, build, chosen), grace_s=room.stop_s + chosen.settle)


class _RoomProcess(Generic[V]):
    """The life of one room, as kernel/process.py leads it."""

    def __init__(
        self, room: Room, view: type[V], build: Build[V], chosen: argparse.Namespace
    ) -> None:
        self._room = room
        self._view = view
        self._build = build
        self._chosen = chosen
        self._state = "starting"
        self._house: House | None = None
        self._wiring: Wiring | None = None
        self._tables: TableServicer | None = None
        self._grpc: GrpcServer | None = None
        self._http: HttpServer | None = None
        self._page: HttpServer | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Make ready: the page first, so that it can say that the rest is starting, then what `build` opens, then the servers."""
        name = self._room.name
        logs.configure(name)
        raise_descriptor_limit()
        view = load_view(self._view, self._chosen.config)
        asked = self._chosen
        at = places(name, view.services, grpc=asked.listen, http=asked.http, metrics=asked.metrics)
        folder = folder_of(self._chosen.config)
        house = self._house = House(
            name,
            folder,
            internal_token(folder),
            view.services,
            rooms(added_rooms()),
            config=self._chosen.config,
        )
        page = Page(lambda: self._figures(house), lambda: self._state)
        if at.metrics is not None:
            self._page = HttpServer(page, *at.metrics, name="metrics")
            await self._page.start()
        self._tasks.append(asyncio.create_task(house.watch_draining()))
        self._wiring = await self._build(view, house)
        public = load_view(LimitView, self._chosen.config).gateway.max_body_bytes
        await self._serve(house, self._wiring, page, at, public)
        self._tasks += [asyncio.create_task(work) for work in self._wiring.background]

    async def _serve(
        self, house: House, wiring: Wiring, page: Page, at: Places, public: int
    ) -> None:
        own = wiring.max_message_bytes
        auth = InnerAuth(house.token, house.clock)
        services = list(wiring.services)
        if wiring.tables:
            self._tables = TableServicer(wiring.tables)
            services.append(tables_service(self._tables))
        self._grpc = GrpcServer(
            Settings(
                host=at.grpc[0],
                port=at.grpc[1],
                settle_s=self._chosen.settle,
                max_message_bytes=public if own is None else own,
                limit_key=MAX_BODY_KEY if own is None else f"the service {self._room.name}",
            ),
            services,
            authenticate=auth,
            ids=house.ids,
            observe=self._count_rpc,
        )
        port, ports = await self._grpc.start(), {}
        if at.http is not None:
            inner = InnerHttp(wiring.http or page, auth, page, house.ids, self._count_request)
            self._http = HttpServer(inner, *at.http, name="inner HTTP")
            ports["http_port"] = await self._http.start()
        self._state = "ok"
        house.metrics.set("consilium_room_up", 1, room=self._room.name)
        logs.get("service").info("service_up", grpc_port=port, **ports)

    def _figures(self, house: House) -> str:
        more = self._wiring.page if self._wiring is not None else None
        return house.metrics.page() + (more() if more is not None else "")

    async def wait(self) -> None:
        """Return never, and raise what a background task raises."""
        await asyncio.gather(*self._tasks, asyncio.Event().wait())

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, settle, let calls and the room's own work finish, then let go of everything."""
        self._state = "draining"
        house, wiring = self._house, self._wiring
        if house is not None:
            house.draining.set()
            house.metrics.set("consilium_room_up", 0, room=self._room.name)
        if self._tables is not None:
            self._tables.close()
        settle_s = self._chosen.settle
        calls_s = max(0.0, grace_s - min(1.0, grace_s * CLOSING_SHARE) - settle_s)
        ending: list[Awaitable[None]] = []
        if self._http is not None:
            ending.append(_after(settle_s, self._http.stop(calls_s)))
        if self._grpc is not None:
            ending.append(self._grpc.stop(calls_s))
        if wiring is not None and wiring.drain is not None and grace_s > 0:
            ending.append(_within(calls_s, wiring.drain(calls_s)))
        try:
            _raise_first(await asyncio.gather(*ending, return_exceptions=True))
        finally:
            await self._let_go()

    async def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for work in self._wiring.background if self._wiring is not None else ():
            work.close()  # one that a failed start has not begun
        closing: list[Awaitable[None]] = []
        if self._wiring is not None and self._wiring.aclose is not None:
            closing.append(self._wiring.aclose())
        if self._house is not None:
            closing.append(self._house.aclose())
        if self._page is not None:
            closing.append(self._page.stop(0.0))
        _raise_first(await asyncio.gather(*closing, return_exceptions=True))

    def _count_rpc(self, ended: grpc_server.Ended) -> None:
        if self._house is not None:
            self._house.metrics.observe(
                "consilium_room_rpc_seconds",
                ended.seconds,
                room=self._room.name,
                method=ended.method.rpartition("/")[2],
                code=ended.code,
            )

    def _count_request(self, ended: inner_http.Ended) -> None:
        if self._house is not None:
            self._house.metrics.observe(
                "consilium_room_http_seconds",
                ended.seconds,
                room=self._room.name,
                method=ended.method,
                code=str(ended.code),
            )


async def _after(seconds: float, work: Awaitable[None]) -> None:
    await asyncio.sleep(seconds)
    await work


async def _within(seconds: float, work: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(work, seconds)


def _raise_first(results: Sequence[BaseException | None]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
