"""Schemas of the operators' own kinds, from the CRDs of the pinned versions: trimmed, strict, and kept beside the tests, so that these need no Go.

    python -m tests.unit.chart.crds          write them anew, from Go's modules

Left out are words that a validator does not read, the status, and rules in CEL, which the true control plane of tests/go keeps. Pods inside (`template`) are
held against Kubernetes' own schemas.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parent / "fixtures" / "crds.json"
SOURCES = {
    "RayService": ("github.com/ray-project/kuberay/ray-operator", "v1.6.2", "config/crd/bases/ray.io_rayservices.yaml"),
    "HTTPRoute": ("sigs.k8s.io/gateway-api", "v1.4.1", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    "GRPCRoute": ("sigs.k8s.io/gateway-api", "v1.4.1", "config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml"),
    "PodMonitor": ("github.com/prometheus-operator/prometheus-operator", "v0.87.1", "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    "PrometheusRule": ("github.com/prometheus-operator/prometheus-operator", "v0.87.1", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
}  # fmt: skip
"""Kind -> Go module, version, file in it."""
_ELSEWHERE = {"template", "headService", "serveService", "autoscalerOptions"}
"""Kubernetes' own objects inside; the chart writes the first only."""
_UNREAD = {"description", "default", "format"}


def kept() -> dict[str, dict[str, Any]]:
    """Return kind -> schema, as they are kept here."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def made() -> dict[str, dict[str, Any]]:
    """Return kind -> schema, from Go's modules. Skips a test where there is no Go."""
    from tests.real.tools import module_folder

    found = {}
    for kind, (module, version, path) in SOURCES.items():
        crd = yaml.safe_load((module_folder(module, version) / path).read_text(encoding="utf-8"))
        served = next(one for one in crd["spec"]["versions"] if one["name"] == "v1")
        schema = strict(served["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        found[kind] = schema
    return found


def strict(part: Any, *, names: bool = False) -> Any:
    """Return a part of a CRD's schema as plain JSON Schema in which an unknown key is an error.

    names  its keys are names of properties, not words of the schema
    """
    if isinstance(part, list):
        return [strict(item) for item in part]
    if not isinstance(part, dict):
        return part
    if names:
        return {key: {"type": "object"} if key in _ELSEWHERE else strict(below) for key, below in part.items()}  # fmt: skip
    found = {
        key: strict(below, names=key == "properties")
        for key, below in part.items()
        if key not in _UNREAD and not key.startswith("x-kubernetes-")
    }
    if "properties" in found and not part.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(made(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
