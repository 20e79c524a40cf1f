"""The rooms of a cluster that are services of their own, one row each: what the supervisor starts, the gateway forwards, and the chart deploys.

A new room is one row here. Knows names, scopes and seconds. Does not import what it names.

    CONSILIUM_ROOMS=package.module:ROOM,...   adds rooms that are not ours: those of a test, or of an owner who writes one
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from consilium.kernel.errors import ConsiliumError

TABLE_SERVICE: Final = "consilium.v1.TableService"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A part of a room's HTTP that the gateway hands on.

    path       such as /v1/files; it and everything below it
    read       scope for GET and HEAD
    write      scope for the other methods
    max_bytes  longest body that is passed on
    """

    path: str
    read: str
    write: str
    max_bytes: int = 4 << 30


@dataclass(frozen=True, slots=True)
class Room:
    """One service.

    name        part, log, section of consilium.yaml, label of its metrics
    module      what is started: python -m <module> --config FILE
    descriptor  module of its generated proto, which the gateway needs for reflection; empty = it has no public methods
    methods     public gRPC methods, /package.Service/Method -> scope; a method that is not here is not forwarded
    prefixes    public HTTP
    tables      tables of its TableService that the gateway follows
    scopes      scopes that keys may have for it
    idempotent  methods that a caller may repeat without harm; the others are never retried
    needs       parts that must be up first
    words       what it is, in a few words, shown while it starts
    vital       whether `up` fails without it
    stop_s      seconds that it gets to end what it is doing
    silent_s    seconds without an answer to GET /healthz on its metrics port after which it is ended and started again
    not_ready_s  seconds for which it may answer there that it is not ready, such as in a migration; then it is ended and started again too
    with_gpus   whether it is only of use where an NVIDIA driver is; `up` leaves it out elsewhere
    claims      whether it takes work by itself, so that it must stop taking before the gateway closes
    """

    name: str
    module: str
    descriptor: str = ""
    methods: Mapping[str, str] = field(default_factory=dict)
    prefixes: tuple[Prefix, ...] = ()
    tables: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    idempotent: frozenset[str] = frozenset()
    needs: tuple[str, ...] = ()
    words: str = ""
    vital: bool = False
    stop_s: float = 10.0
    silent_s: float = 15.0
    not_ready_s: float = 900.0
    with_gpus: bool = False
    claims: bool = False


GPU_METRICS: Final = Room(
    name="gpu_metrics",
    module="consilium.gpu_metrics.app",
    words="the GPU metrics",
    stop_s=3.0,
    with_gpus=True,
)
_ROUTER: Final = "/consilium.v1.LoraRouterService"
LORA_ROUTER: Final = Room(
    name="lora_router",
    module="consilium.lora_router.app",
    descriptor="consilium.v1.lora_router_pb2",
    methods={
        **dict.fromkeys(
            (f"{_ROUTER}/ListAdapters", f"{_ROUTER}/GetAdapter"),
            "lora_router.read",
        ),
        **dict.fromkeys(
            (
                f"{_ROUTER}/PlaceAdapter",
                f"{_ROUTER}/WarmAdapter",
                f"{_ROUTER}/EvictAdapter",
                f"{_ROUTER}/RemoveAdapter",
                f"{_ROUTER}/SwitchVersion",
            ),
            "lora_router.write",
        ),
    },
    prefixes=(
        Prefix(
            "/v1/adapters", read="lora_router.read", write="lora_router.write", max_bytes=9 << 30
        ),
    ),
    tables=("adapters",),
    scopes=("lora_router.read", "lora_router.write"),
    idempotent=frozenset(
        f"{_ROUTER}/{method}"
        for method in (
            "ListAdapters",
            "GetAdapter",
            "PlaceAdapter",
            "WarmAdapter",
            "Want",
            "Compose",
        )
    ),
    words="the adapters",
    stop_s=10.0,
)
ROOMS: Final[tuple[Room, ...]] = (GPU_METRICS, LORA_ROUTER)
"""Our own."""


def rooms(added: str | None = None) -> tuple[Room, ...]:
    """Return every room: ours, and those that `added` names (module:ATTRIBUTE, separated by commas).

    Raises ConsiliumError(config_invalid) if one cannot be imported or two share a name.
    """
    found = [*ROOMS, *(_named(place) for place in (added or "").split(",") if place.strip())]
    names = [room.name for room in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConsiliumError(
            "config_invalid", key="CONSILIUM_ROOMS", reason=f"there are two rooms named {twice!r}"
        )
    return tuple(found)


def _named(place: str) -> Room:
    module, colon, name = place.strip().partition(":")
    try:
        room = getattr(importlib.import_module(module), name) if colon else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConsiliumError(
            "config_invalid",
            key="CONSILIUM_ROOMS",
            reason=f"{place!r} cannot be imported ({error}); write module:ATTRIBUTE",
        ) from None
    if not isinstance(room, Room):
        raise ConsiliumError(
            "config_invalid",
            key="CONSILIUM_ROOMS",
            reason=f"{place!r} is no room; write module:ATTRIBUTE, where the attribute is a kernel.rooms.Room",
        )
    return room
