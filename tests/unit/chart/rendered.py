"""Renders of the chart by the real Helm engine, one for each set of values: kept for the whole run, so nobody may change what it gives.

    render(values)                     the chart with these values over its own
    preset("cpu")                      with a preset's
    of_kind(render, "Service")         objects of one kind
    pods(render)                       every pod that the objects make: those of Ray, of rooms, of Redis, of Jobs, of `helm test`

The engine sees no cluster: `lookup` is empty and no API is there, so every render says skipChecks and draws its secrets, but where a test says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).resolve().parents[3] / "helm" / "consilium"
EXPECTED: dict[str, dict[str, Any]] = yaml.safe_load(
    (CHART / "presets" / "expected.yaml").read_text(encoding="utf-8")
)
"""What each preset becomes (presets/expected.yaml)."""
PRESETS = tuple(sorted(EXPECTED))
UNSEEN = {"skipChecks": True, "secrets": {"generate": "true"}}
"""What a render says that sees no cluster."""
WORKERS = {
    "name": "main",
    "image": "cpu",
    "replicas": 1,
    "gpus": 0,
    "resources": {
        "requests": {"cpu": "2", "memory": "6Gi"},
        "limits": {"cpu": "4", "memory": "10Gi"},
    },
}
"""A group of workers, for tests that say which groups there are."""
RELEASE = "home"
NAMESPACE = "lab"


@dataclass(frozen=True)
class Pod:
    """One pod as the objects make it.

    owner   kind/name of what makes it
    kind    component: head, worker, gateway, redis, prefetch, test, or a room
    copies  how many there are; 0 = one on each node
    """

    owner: str
    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]
    copies: int

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.get("labels", {})

    @property
    def kind(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def name(self) -> str:
        """What a test calls it: its component, with the pool where it has one."""
        pool = self.labels.get("consilium/pool")
        return f"{self.kind} {pool}" if pool else self.kind

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def ports(self) -> dict[str, int]:
        """Declared ports, name -> number."""
        return {
            port["name"]: port["containerPort"]
            for container in self.containers
            for port in container.get("ports", ())
        }


@dataclass(frozen=True)
class Render:
    """What `helm install` would send: texts of the files, and the objects in them."""

    files: Mapping[str, str]
    name: str
    namespace: str

    @property
    def notes(self) -> str:
        return self.files["NOTES.txt"]

    @property
    def text(self) -> str:
        """Every manifest as one text."""
        return "\n---\n".join(text for path, text in self.files.items() if path != "NOTES.txt")

    @cached_property
    def objects(self) -> tuple[dict[str, Any], ...]:
        return tuple(found for found in yaml.safe_load_all(self.text) if found)

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """Return the only object of a kind, or the one with this name."""
        found = [
            one for one in of_kind(self, kind) if name is None or one["metadata"]["name"] == name
        ]
        assert len(found) == 1, (kind, name, [one["metadata"]["name"] for one in found])
        return found[0]

    @property
    def rayservice(self) -> dict[str, Any]:
        return self.one("RayService")["spec"]

    @property
    def serve_config(self) -> dict[str, Any]:
        return yaml.safe_load(self.rayservice["serveConfigV2"])

    @property
    def config_text(self) -> str:
        """consilium.yaml as the pods read it."""
        return self.one("ConfigMap", self.one("RayService")["metadata"]["name"])["data"]["consilium.yaml"]  # fmt: skip


def of_kind(render: Render, kind: str) -> list[dict[str, Any]]:
    return [one for one in render.objects if one["kind"] == kind]


def pods(render: Render) -> tuple[Pod, ...]:
    return tuple(_pods(render))


def pod(render: Render, name: str) -> Pod:
    """Return the pod of this name (`Pod.name`)."""
    (found,) = (one for one in pods(render) if one.name == name)
    return found


def _pods(render: Render) -> Iterator[Pod]:
    for one in render.objects:
        kind, spec = one["kind"], one.get("spec", {})
        owner = f"{kind}/{one['metadata']['name']}"
        if kind == "Pod":
            yield Pod(owner, one["metadata"], spec, 1)
        elif kind == "RayService":
            cluster = spec["rayClusterConfig"]
            head = cluster["headGroupSpec"]["template"]
            yield Pod(f"{owner} head", head["metadata"], head["spec"], 1)
            for group in cluster["workerGroupSpecs"]:
                made = group["template"]
                yield Pod(f"{owner} {group['groupName']}", made["metadata"], made["spec"], group["replicas"])  # fmt: skip
        elif kind in {"Deployment", "StatefulSet", "DaemonSet", "Job"}:
            made = spec["template"]
            copies = 0 if kind == "DaemonSet" else spec.get("replicas", 1)
            yield Pod(owner, made["metadata"], made["spec"], copies)


def cards_of(one: Pod, resource: str = "nvidia.com/gpu") -> int:
    """Return the cards that a pod asks for."""
    limits = (container.get("resources", {}).get("limits", {}) for container in one.containers)
    return sum(int(limit.get(resource, 0)) for limit in limits)


def merged(below: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as Helm lays one file over another: mappings are joined, all else is replaced."""
    out = dict(below)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value  # fmt: skip
    return out


def values_of(name: str) -> dict[str, Any]:
    """Return the values of a preset as it is meant to be used: the files that go before it, itself, and what it leaves to its owner."""
    found: dict[str, Any] = {}
    for file in (*EXPECTED[name].get("with", ()), name):
        found = merged(found, file_of(file))
    for key, value in EXPECTED[name].get("set", {}).items():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = merged(found, value)
    return found


def file_of(name: str) -> dict[str, Any]:
    """Return one file of presets/ as it is written."""
    return yaml.safe_load((CHART / "presets" / f"{name}.yaml").read_text(encoding="utf-8"))


def preset(name: str, over: Mapping[str, Any] | None = None, **told: Any) -> Render:
    """Return the render of a preset; `default` is the chart's own values."""
    below = {} if name == "default" else values_of(name)
    return render(merged(below, over or {}), **told)


def render(
    values: Mapping[str, Any] | None = None,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    upgrade: bool = False,
    unseen: bool = True,
) -> Render:
    """Return the render of values over the chart's own.

    unseen  say for it that no cluster can be asked

    Raises HelmError where the chart refuses them.
    """
    told = merged(UNSEEN, values or {}) if unseen else dict(values or {})
    return _render(json.dumps(told, sort_keys=True), release, namespace, upgrade)


def drawn(
    values: Mapping[str, Any], *, release: str, namespace: str, upgrade: bool
) -> dict[str, str]:
    """Render anew. Returns path below templates/ -> text."""
    with helm_python.Chart.load(str(CHART)) as chart:
        found = chart.render(
            values=dict(values),
            name=release,
            namespace=namespace,
            revision=2 if upgrade else 1,
            is_install=not upgrade,
            is_upgrade=upgrade,
        )
    return {path.partition("/templates/")[2]: text for path, text in found.items()}


@lru_cache(maxsize=256)
def _render(values: str, release: str, namespace: str, upgrade: bool) -> Render:
    files = drawn(json.loads(values), release=release, namespace=namespace, upgrade=upgrade)
    return Render(files, release, namespace)
