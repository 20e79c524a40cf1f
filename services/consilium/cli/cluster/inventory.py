"""What a Kubernetes cluster has, before anything of ours is in it.

    read(api, namespace)  asks the API server
    Inventory             the answer, as plain objects, with what of the nodes is still free

Does not know what an installation needs (install_rows.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from consilium.cli.cluster.api import Api
from consilium.cli.cluster.objects import (
    Object,
    is_over,
    is_true,
    labels_of,
    name_of,
    quantity,
    requested,
    status_of,
)
from consilium.cli.cluster.wanted import Pod

LISTS: Final = {
    "nodes": "/api/v1/nodes",
    "pods": "/api/v1/pods",
    "deployments": "/apis/apps/v1/deployments",
    "daemonsets": "/apis/apps/v1/daemonsets",
    "runtimes": "/apis/node.k8s.io/v1/runtimeclasses",
    "classes": "/apis/storage.k8s.io/v1/storageclasses",
    "volumes": "/api/v1/persistentvolumes",
    "ingress_classes": "/apis/networking.k8s.io/v1/ingressclasses",
    "namespaces": "/api/v1/namespaces",
    "prometheuses": "/apis/monitoring.coreos.com/v1/prometheuses",
    "gateways": "/apis/gateway.networking.k8s.io/v1/gateways",
    "quotas": "/api/v1/namespaces/{space}/resourcequotas",
}
_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a cluster has.

    version  of the API server, such as v1.35.4+k3s1
    kinds    "group/version Kind" that it knows
    unread   what these credentials may not read, each with the reason
    """

    namespace: str
    version: str
    kinds: frozenset[str] = frozenset()
    nodes: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    daemonsets: tuple[Object, ...] = ()
    runtimes: tuple[Object, ...] = ()
    classes: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    ingress_classes: tuple[Object, ...] = ()
    namespaces: tuple[Object, ...] = ()
    prometheuses: tuple[Object, ...] = ()
    gateways: tuple[Object, ...] = ()
    quotas: tuple[Object, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)

    def is_read(self, *kinds: str) -> bool:
        """Return whether these lists could be read."""
        return not any(kind in self.unread for kind in kinds)

    def free(self) -> dict[str, dict[str, float]]:
        """Return what each node that takes pods still has: node -> resource -> amount."""
        left: dict[str, dict[str, float]] = {}
        for node in self.nodes:
            if takes_pods(node):
                has = status_of(node).get("allocatable") or {}
                left[name_of(node)] = {what: quantity(much) for what, much in has.items()}
        for pod in self.pods:
            room = left.get((pod.get("spec") or {}).get("nodeName", ""))
            if room is not None and not is_over(pod):
                for what, much in requested(pod).items():
                    room[what] = room.get(what, 0.0) - much
        return left

    def holders(self, resource: str) -> Iterator[tuple[str, int]]:
        """Yield pods that hold cards, with how many."""
        for pod in self.pods:
            much = requested(pod).get(resource, 0)
            if much and not is_over(pod) and (pod.get("spec") or {}).get("nodeName"):
                yield f"{pod['metadata'].get('namespace')}/{name_of(pod)}", int(much)


def takes_pods(node: Object) -> bool:
    """Return whether a node is ready and not cordoned."""
    return is_true(node, "Ready") and not (node.get("spec") or {}).get("unschedulable")


def admits(node: Object, pod: Pod) -> bool:
    """Return whether a node has the labels that a pod asks for, and no taint that it does not bear."""
    labels = labels_of(node)
    if any(labels.get(key) != value for key, value in pod.node_selector.items()):
        return False
    taints = (node.get("spec") or {}).get("taints") or ()
    return all(
        taint.get("effect") == "PreferNoSchedule"
        or any(_bears(toleration, taint) for toleration in pod.tolerations)
        for taint in taints
    )


def _bears(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if not toleration.get("key"):
        return toleration.get("operator") == "Exists"
    if toleration["key"] != taint.get("key"):
        return False
    is_any = toleration.get("operator") == "Exists"
    return is_any or toleration.get("value", "") == (taint.get("value") or "")


def version_of(text: str) -> tuple[int, int, int]:
    """Return a version such as v1.35.4+k3s1 as numbers; zeros where it is none."""
    found = _VERSION.search(text)
    if found is None:
        return (0, 0, 0)
    return (int(found[1]), int(found[2]), int(found[3] or 0))


def read(api: Api, namespace: str) -> Inventory:
    """Ask for everything that an installation depends on. Raises ConsiliumError(kubernetes_unreached)."""
    version = str(api.get("/version").get("gitVersion", ""))
    found, unread = api.lists(LISTS, namespace)
    lists: dict[str, Any] = dict(found)
    return Inventory(namespace, version, frozenset(_kinds(api)), unread=unread, **lists)


def _kinds(api: Api) -> Iterator[str]:
    """Yield the kinds of the groups that we ask about, as the API server lists them."""
    known = {group["name"]: group for group in api.get("/apis").get("groups") or ()}
    for name in ("ray.io", "monitoring.coreos.com", "gateway.networking.k8s.io"):
        for version in known.get(name, {}).get("versions", ()):
            at = version["groupVersion"]
            for row in api.get(f"/apis/{at}").get("resources") or ():
                if "/" not in row["name"]:
                    yield f"{at} {row['kind']}"
