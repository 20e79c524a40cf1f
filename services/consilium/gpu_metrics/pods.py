"""Which pod has which card, out of what the kubelet says of containers and their devices.

    GPU-<uuid>           a card, by NVIDIA's device plugin
    GPU-<uuid>::3        a share of a card that is sliced in time: several pods have the same card
    MIG-<uuid>           a slice
    claim gpu-0          a card by its minor number, by NVIDIA's driver for claims (Dynamic Resource Allocation)

Slices that come by a claim are named after a place on their card, which NVML does not tell an unprivileged reader: they are left out. Pure. Does not know the kubelet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from consilium.gpu_metrics.samples import Card

DRA_DRIVER: Final = "gpu.nvidia.com"
_SHARE: Final = "::"
_KNOWN: Final = ("GPU-", "MIG-")
_MINOR: Final = re.compile(r"^gpu-(\d+)$")


@dataclass(frozen=True, slots=True)
class Container:
    """A container and what it has.

    devices  names that a device plugin gave, of any kind
    claimed  (driver, device) of its claims
    """

    namespace: str
    pod: str
    name: str
    devices: tuple[str, ...] = ()
    claimed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Pods:
    """What the kubelet said.

    answers     whether it does; what it said before holds for a while longer
    containers  those with devices
    """

    answers: bool
    containers: tuple[Container, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """A container that has a card or a slice."""

    uuid: str
    namespace: str
    pod: str
    container: str


def holders(containers: Iterable[Container], cards: Iterable[Card]) -> list[Holder]:
    """Return who has which card, each once, in order.

    cards  for the numbers that claims name
    """
    minors = {card.minor: card.uuid for card in cards if card.minor is not None}
    return sorted(
        {
            Holder(uuid, one.namespace, one.pod, one.name)
            for one in containers
            for uuid in _uuids(one, minors)
        }
    )


def _uuids(one: Container, minors: dict[int, str]) -> Iterator[str]:
    for device in one.devices:
        uuid = device.partition(_SHARE)[0]
        if uuid.startswith(_KNOWN):
            yield uuid
    for driver, device in one.claimed:
        found = _MINOR.match(device) if driver == DRA_DRIVER else None
        if found is not None and int(found[1]) in minors:
            yield minors[int(found[1])]
