"""What an installation will ask of a cluster, by the values that `helm install` gets.

    of_files(paths)  values files, later ones over earlier ones, as Helm lays them
    of_values(tree)  the same tree, read

What values leave unsaid is said here as in the chart's values.yaml; a test holds the two against each other. Does not know the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from consilium.cli.cluster.objects import quantity
from consilium.kernel.errors import ConsiliumError

_HEAD: Final = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"cpu": "2", "memory": "4Gi"}}  # fmt: skip
_WORKER: Final = {"requests": {"cpu": "2", "memory": "6Gi"}, "limits": {"cpu": "4", "memory": "10Gi"}}  # fmt: skip
_GATEWAY: Final = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "3Gi"}}  # fmt: skip
_REDIS: Final = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}  # fmt: skip
_ADAPTERS: Final = {"requests": {"cpu": "50m", "memory": "192Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}  # fmt: skip
PAGE: Final = {"cpu": 0.01, "memory": 64 * 2.0**20}
"""What the container with the metrics page asks for, in every pod of Ray."""
DEFAULTS: Final[Mapping[str, Any]] = {
    "gpu": {
        "resourceName": "nvidia.com/gpu",
        "runtimeClassName": "",
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "metrics": {"enabled": True, "podResources": False, "nodeSelector": {}},
    },
    "head": {"resources": _HEAD},
    "workers": [{"name": "main", "image": "cpu", "replicas": 1, "gpus": 0, "resources": _WORKER, "sharedMemory": "1Gi"}],
    "gateway": {"worker": "main", "pods": 1, "resources": _GATEWAY},
    "redis": {"builtin": True, "resources": _REDIS, "storage": {"storageClass": ""}},
    "models": {"storage": "pvc", "storageClass": "", "size": "100Gi"},
    "adapters": {"enabled": True, "resources": _ADAPTERS, "storage": {"storageClass": ""}, "nodeSelector": {}, "tolerations": []},
    "ingress": {"enabled": False, "className": ""},
    "routes": {"enabled": False, "parents": []},
    "networkPolicy": {
        "enabled": True,
        "egress": {"dns": {"to": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}, {"ipBlock": {"cidr": "169.254.20.10/32"}}]}},
        "operatorNamespace": {"kubernetes.io/metadata.name": "kuberay-system"},
        "monitoringNamespace": {"kubernetes.io/metadata.name": "monitoring"},
    },
    "monitoring": {"podMonitor": {"enabled": False, "labels": {}}},
}  # fmt: skip
"""The values that are looked at, as the chart has them."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that will be made.

    knob         the values that say what it asks for
    requests     cpu, memory and cards
    limits       cpu and memory
    shm_bytes    its /dev/shm, out of its memory
    tolerations  taints that it bears
    """

    name: str
    knob: str
    requests: Mapping[str, float]
    limits: Mapping[str, float]
    shm_bytes: float = 0.0
    is_gpu: bool = False
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an installation asks for: its pods, and the tree of values (with what they leave unsaid)."""

    pods: tuple[Pod, ...]
    values: Mapping[str, Any]

    @property
    def resource(self) -> str:
        """What the device plugin calls a card."""
        return str(self.values["gpu"]["resourceName"])

    @property
    def cards(self) -> int:
        """Cards of all pods together."""
        return int(sum(pod.requests.get(self.resource, 0) for pod in self.pods))

    @property
    def classes(self) -> Iterator[tuple[str, str]]:
        """Storage classes that claims will ask for, with the value that says so; "" is the cluster's default."""
        if self.values["models"]["storage"] == "pvc":
            yield "models.storageClass", self.values["models"]["storageClass"]
        if self.values["redis"]["builtin"]:
            yield "redis.storage.storageClass", self.values["redis"]["storage"]["storageClass"]
        if self.values["adapters"]["enabled"]:
            yield (
                "adapters.storage.storageClass",
                self.values["adapters"]["storage"]["storageClass"],
            )


def of_files(paths: Sequence[Path]) -> Wanted:
    """Return what values files ask for. Raises ConsiliumError(config_invalid)."""
    tree: Any = {}
    for path in paths:
        try:
            read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as err:
            raise ConsiliumError("config_invalid", key=str(path), reason=str(err)) from err
        if not isinstance(read, dict):
            raise ConsiliumError("config_invalid", key=str(path), reason="it holds no values")
        tree = laid_over(tree, read)
    return of_values(tree)


def laid_over(below: Any, above: Any) -> Any:
    """Return values over others as Helm lays them: tables are merged, lists and the rest are replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: laid_over(below.get(key), value) for key, value in above.items()}}


def of_values(tree: Mapping[str, Any]) -> Wanted:
    """Return what values ask for. Raises ConsiliumError(config_invalid): a resource is no quantity."""
    values = laid_over(DEFAULTS, tree)
    try:
        return Wanted(tuple(_pods(values)), values)
    except (KeyError, TypeError, ValueError, AttributeError) as err:
        raise ConsiliumError("config_invalid", key="values", reason=f"resources or workers are not as the chart has them ({err})") from err  # fmt: skip


def _pods(values: Mapping[str, Any]) -> Iterator[Pod]:
    yield _pod("head", "head.resources", values["head"], page=True)
    gpu = values["gpu"]
    for group in values["workers"]:
        cards = int(group.get("gpus") or 0)
        for number in range(int(group["replicas"])):
            yield _pod(
                f"{group['name']}-{number}",
                f"workers[name={group['name']}].resources",
                group,
                page=True,
                cards={gpu["resourceName"]: float(cards)} if cards else {},
                tolerations=gpu["tolerations"] if cards else (),
            )
    if not values["gateway"]["worker"]:
        for number in range(int(values["gateway"]["pods"])):
            yield _pod(f"gateway-{number}", "gateway.resources", values["gateway"], page=True)
    if values["redis"]["builtin"]:
        yield _pod("redis", "redis.resources", values["redis"])
    if values["adapters"]["enabled"]:
        yield _pod("lora-router", "adapters.resources", values["adapters"])


def _pod(
    name: str,
    knob: str,
    row: Mapping[str, Any],
    *,
    page: bool = False,
    cards: Mapping[str, float] | None = None,
    tolerations: Sequence[Mapping[str, Any]] = (),
) -> Pod:
    requests = {what: quantity(much) for what, much in row["resources"]["requests"].items()}
    if page:
        requests = {what: much + PAGE.get(what, 0) for what, much in requests.items()}
    return Pod(
        name,
        knob,
        {**requests, **(cards or {})},
        {what: quantity(much) for what, much in (row["resources"].get("limits") or {}).items()},
        quantity(row.get("sharedMemory") or 0),
        bool(cards),
        row.get("nodeSelector") or {},
        (*(row.get("tolerations") or ()), *tolerations),
    )
