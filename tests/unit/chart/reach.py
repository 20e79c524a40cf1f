"""Who reaches whom through the NetworkPolicies of a render: their semantics, over the pods that the render makes and some strangers.

A pod that no policy selects for a direction may do everything in it; one that is selected may do what some policy that selects it allows. A peer is pods by label in
this namespace, pods of namespaces by label, both together, or addresses. Whether a block of addresses means pods too differs between network plugins: here it does
where `blocks_are_pods` says so, and what the table says must hold either way.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.unit.chart.rendered import Render, of_kind, pods


@dataclass(frozen=True)
class Place:
    """Something that asks or is asked: a pod, or an address outside of the cluster."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.42.0.9"
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_pod(self) -> bool:
        return self.namespace is not None


@dataclass(frozen=True)
class Network:
    """The policies of a render."""

    policies: tuple[Mapping[str, Any], ...]
    namespace: str
    blocks_are_pods: bool = True

    def allows(self, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
        """Return whether a connection comes about: it may go out there and come in here."""
        door = (target, port, protocol)
        return self._may("Egress", source, target, door) and self._may("Ingress", target, source, door)  # fmt: skip

    def selecting(self, place: Place, direction: str) -> list[Mapping[str, Any]]:
        return [
            one["spec"]
            for one in self.policies
            if place.namespace == self.namespace
            and direction in types_of(one["spec"])
            and matches(one["spec"].get("podSelector", {}), place.labels)
        ]

    def _may(self, direction: str, own: Place, other: Place, door: tuple[Place, int, str]) -> bool:
        chosen = self.selecting(own, direction)
        if not chosen:
            return True
        side = {"Egress": "to", "Ingress": "from"}[direction]
        return any(
            self._is_peer(rule.get(side), other) and opens(rule.get("ports"), *door)
            for spec in chosen
            for rule in spec.get(direction.lower()) or ()
        )

    def _is_peer(self, peers: Iterable[Mapping[str, Any]] | None, other: Place) -> bool:
        if not peers:  # unsaid or empty: everybody
            return True
        return any(self._is_one(peer, other) for peer in peers)

    def _is_one(self, peer: Mapping[str, Any], other: Place) -> bool:
        if "ipBlock" in peer:
            if other.is_pod and not self.blocks_are_pods:
                return False
            return in_block(peer["ipBlock"], other.address)
        if not other.is_pod:
            return False
        spaces = peer.get("namespaceSelector")
        here = other.namespace == self.namespace if spaces is None else matches(spaces, other.namespace_labels)  # fmt: skip
        return here and matches(peer.get("podSelector", {}), other.labels)


def types_of(spec: Mapping[str, Any]) -> list[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector takes these labels; an empty one takes all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for row in selector.get("matchExpressions") or ():
        has, values = row["key"] in labels, row.get("values") or ()
        is_in = has and labels[row["key"]] in values
        if not {"In": is_in, "NotIn": not is_in, "Exists": has, "DoesNotExist": not has}[row["operator"]]:  # fmt: skip
            return False
    return True


def in_block(block: Mapping[str, Any], address: str) -> bool:
    found = ipaddress.ip_address(address)
    if found not in ipaddress.ip_network(block["cidr"]):
        return False
    return not any(found in ipaddress.ip_network(part) for part in block.get("except") or ())


def opens(
    ports: Iterable[Mapping[str, Any]] | None, asked: Place, port: int, protocol: str
) -> bool:
    """Return whether a rule's ports hold this one; a name is a port of the pod that is asked."""
    if not ports:
        return True
    for one in ports:
        if one.get("protocol", "TCP") != protocol:
            continue
        first = one.get("port")
        if isinstance(first, str):
            first = asked.ports.get(first)
        if "port" not in one or (first is not None and first <= port <= one.get("endPort", first)):
            return True
    return False


def network(render: Render, *, blocks_are_pods: bool = True) -> Network:
    return Network(tuple(of_kind(render, "NetworkPolicy")), render.namespace, blocks_are_pods)


def places(render: Render) -> dict[str, Place]:
    """Return the pods of a render by component, the first of each."""
    found: dict[str, Place] = {}
    for one in pods(render):
        found.setdefault(
            one.kind, Place(one.kind, one.labels, render.namespace, {"kubernetes.io/metadata.name": render.namespace}, ports=one.ports())
        )  # fmt: skip
    return found
