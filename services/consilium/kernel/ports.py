"""All ports of one cluster on one machine, in one table, allotted free at start: two clusters live side by side.

Knows names, usual numbers, what is free and what is promised to other clusters. Does not know the programs: supervisor/commands.py tells them their numbers.
"""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from consilium.kernel.errors import ConsiliumError

INGRESS_PORTS: Final = 64
"""Places in each range from which Serve gives ports to ingress replicas."""

LOWEST: Final = 11_000
HIGHEST: Final = 32_000
"""Free ports are drawn between these: above the well-known ones, and below those that Linux gives to outgoing connections (32768 and up)."""

_DRAWS: Final = 400
_DICE: Final = (
    random.SystemRandom()
)  # two processes that were seeded alike would draw the same port


@dataclass(frozen=True, slots=True)
class Place:
    """One row of the table.

    usual      port that the program takes when nobody names one
    preferred  take `usual` where it is free; else always draw one, because other software of the house expects it there
    count      consecutive ports
    """

    name: str
    usual: int
    meaning: str
    preferred: bool = False
    count: int = 1


TABLE: Final[tuple[Place, ...]] = (
    Place("http", 8000, "OpenAI HTTP face (HAProxy)", preferred=True),
    Place("grpc", 50051, "gRPC face of the gateway"),
    Place("metrics", 9090, "Prometheus page of the supervisor"),
    Place("redis", 6379, "our own Redis"),
    Place("ray", 6379, "Ray's GCS"),
    Place("ray_object_manager", 8076, "Ray's object manager"),
    Place("ray_node_manager", 8077, "Ray's node manager"),
    Place("ray_client", 10001, "Ray client server"),
    Place("ray_dashboard", 8265, "Ray dashboard; it is off, but its port is named"),
    Place("ray_agent_http", 52365, "Ray's dashboard agent, HTTP"),
    Place("ray_agent_grpc", 52366, "Ray's dashboard agent, gRPC"),
    Place("ray_runtime_env", 52367, "Ray's runtime environment agent"),
    Place("ray_metrics", 8080, "Ray's Prometheus page"),
    Place("haproxy_stats", 8404, "HAProxy's own page"),
    Place("haproxy_metrics", 9101, "HAProxy's Prometheus page"),
    Place("serve_fallback_http", 8500, "Serve's Python proxy behind HAProxy, HTTP"),
    Place("serve_fallback_grpc", 9500, "Serve's Python proxy behind HAProxy, gRPC"),
    Place(
        "serve_ingress_http", 30000, "ingress replicas behind HAProxy, HTTP", count=INGRESS_PORTS
    ),
    Place(
        "serve_ingress_grpc", 40000, "ingress replicas behind HAProxy, gRPC", count=INGRESS_PORTS
    ),
)

BY_NAME: Final[dict[str, Place]] = {place.name: place for place in TABLE}


def room_places(room: str, *, http: bool) -> tuple[Place, ...]:
    """Return the rows of one room. Nobody expects it anywhere, so its ports are always drawn.

    http  whether it serves an inner HTTP
    """
    places = [
        Place(f"{room}_grpc", 0, f"gRPC of {room}"),
        Place(f"{room}_metrics", 0, f"Prometheus page and health of {room}"),
    ]
    if http:
        places.insert(1, Place(f"{room}_http", 0, f"inner HTTP of {room}"))
    return tuple(places)


Ports = dict[str, int]
"""Name of a row -> the number, of a range the first."""


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port, on any address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as err:
            if err.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
        return True


def claim(port: int) -> socket.socket:
    """Promise a port to the holder of the socket that is returned: until it is closed, and in every process that inherits it, no other cluster takes the port,
    though nobody listens on it yet. Raises OSError(EADDRINUSE) if it is promised already.
    """
    promise = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        promise.bind(f"\0consilium-port-{port}")  # an abstract name: it ends with its last holder
    except OSError:
        promise.close()
        raise
    return promise


class Claims:
    """The promises of every port of one cluster, to be handed to the process that looks after it. Leaving the context lets go of them here."""

    def __init__(self, ports: Iterable[int]) -> None:
        """Claim the ports, all or none. Raises OSError(EADDRINUSE) if one is promised already."""
        self._held: list[socket.socket] = []
        try:
            for port in sorted(ports):
                self._held.append(claim(port))
        except OSError:
            self.close()
            raise

    def descriptors(self) -> tuple[int, ...]:
        """Return the descriptors that a child must inherit to hold the promises."""
        return tuple(promise.fileno() for promise in self._held)

    def close(self) -> None:
        """Let go. A port stays promised where another process has inherited it."""
        for promise in self._held:
            promise.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_open(port: int) -> bool:
    """Return whether a port is free and promised to nobody."""
    if not is_free(port):
        return False
    try:
        claim(port).close()
    except OSError:
        return False
    return True


def free_port(
    count: int = 1, *, taken: Iterable[int] = (), usable: Callable[[int], bool] = is_open
) -> int:
    """Return the first of `count` consecutive free ports.

    taken  numbers that are promised already, though nobody listens on them yet

    Raises ConsiliumError(port_taken) when none is found.
    """
    promised = frozenset(taken)
    for _ in range(_DRAWS):
        first = _DICE.randint(LOWEST, HIGHEST - count)
        if all(number not in promised and usable(number) for number in range(first, first + count)):
            return first
    raise ConsiliumError(
        "port_taken",
        f"{count} ports in a row between {LOWEST} and {HIGHEST}",
        port=f"{LOWEST} to {HIGHEST}",
        name="any",
        owner="others",
    )


def allot(
    asked: Mapping[str, int | None],
    *,
    skip: Iterable[str] = (),
    more: Iterable[Place] = (),
    usable: Callable[[int], bool] = is_open,
) -> Ports:
    """Return a port for every row of the table.

    asked  name -> number that a person named; None and absent = ours to choose
    skip   rows that this cluster does not need, such as redis where the configuration names one
    more   rows beside the table's: those of the rooms

    Raises ConsiliumError(port_taken) if a named port is taken, with its owner where that can be seen; KeyError for a name that is no row.
    """
    left_out = frozenset(skip)
    rows = [row for row in (*TABLE, *more) if row.name not in left_out]
    named = {
        BY_NAME[name].name: port
        for name, port in asked.items()
        if port is not None and name not in left_out
    }
    ports: Ports = {}
    promised: set[int] = set()
    for name, port in named.items():
        if port in promised or not usable(port):
            raise ConsiliumError(
                "port_taken", port=port, name=name, owner=_twice(ports, port) or owner(port)
            )
        ports[name] = port
        promised.add(port)
    for row in rows:
        if row.name in ports:
            continue
        usual = row.preferred and row.usual not in promised and usable(row.usual)
        ports[row.name] = (
            row.usual if usual else free_port(row.count, taken=promised, usable=usable)
        )
        promised.update(range(ports[row.name], ports[row.name] + row.count))
    return {row.name: ports[row.name] for row in rows}


def allot_and_claim(
    asked: Mapping[str, int | None],
    *,
    skip: Iterable[str] = (),
    more: Iterable[Place] = (),
    draw: Callable[..., Ports] = allot,
) -> tuple[Ports, Claims]:
    """Return what `allot` does, and the promises of all these ports: of two starts at once none gets a port of the other. Raises as `allot` does."""
    places = (*TABLE, *more)
    while True:
        ports = draw(asked, skip=skip, more=more)
        try:
            return ports, Claims(numbers(ports, places))
        except OSError as err:  # another start was quicker; the next round sees its promises
            if err.errno != errno.EADDRINUSE:
                raise


def numbers(ports: Mapping[str, int], places: Iterable[Place] = TABLE) -> tuple[int, ...]:
    """Return every port of a cluster, those within ranges too."""
    counts = {place.name: place.count for place in places}
    return tuple(
        number
        for name, first in ports.items()
        for number in range(first, first + counts.get(name, 1))
    )


def owner(port: int) -> str:
    """Return who has a port, as words for a sentence: program and pid where the system tells, else 'another program'."""
    if is_free(port):
        return "another cluster, which has not begun to listen on it yet"
    import psutil  # noqa: PLC0415  wanted in the bad case only

    try:
        found = next(
            (
                c.pid
                for c in psutil.net_connections("tcp")
                if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN
            ),
            None,
        )
        return f"{psutil.Process(found).name()} (pid {found})" if found else "another program"
    except (psutil.Error, OSError):
        return "another program"


def _twice(ports: Ports, port: int) -> str:
    return next((f"{name} of this cluster" for name, number in ports.items() if number == port), "")
