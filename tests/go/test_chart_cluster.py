"""The chart in a true control plane: installed, scheduled, upgraded, taken back and removed by Helm, with the real KubeRay operator and KWOK's nodes."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from tests.real.control_plane import ControlPlane
from tests.real.tools import tool

CHART = Path(__file__).resolve().parents[2] / "helm" / "consilium"
SPACE = "llm"
HELM_S = 120


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with ControlPlane(tmp_path_factory.mktemp("plane")) as made:
        made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})  # fmt: skip
        made.create({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"})  # fmt: skip
        yield made


def helm(plane, *words, ok=True, program="helm"):
    """Run Helm against the control plane and return what it said."""
    done = subprocess.run(
        [tool(program), *words, "--kubeconfig", str(plane.kubeconfig), "-n", SPACE],
        capture_output=True, text=True, timeout=HELM_S, check=False,
        env={**os.environ, "HOME": str(plane.folder)},
    )  # fmt: skip
    if ok:
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def pods(plane, **labels):
    chosen = ",".join(f"{name}={value}" for name, value in labels.items())
    return plane.list(f"/api/v1/namespaces/{SPACE}/pods", **({"labelSelector": chosen} if chosen else {}))  # fmt: skip


def test_the_default_is_installed_upgraded_and_removed(plane):
    plane.add_node("box", cpus=16, memory="64Gi")
    said = helm(plane, "install", "mind", str(CHART))
    assert "admin-key" in said
    assert "Warning" not in said, said
    secret = plane.api("GET", f"/api/v1/namespaces/{SPACE}/secrets/mind-consilium")["data"]
    service = plane.api("GET", f"/apis/ray.io/v1/namespaces/{SPACE}/rayservices/mind-consilium")
    print(json.dumps(service["spec"], indent=1)[:300])
    plane.until(lambda: len(pods(plane, **{"app.kubernetes.io/component": "worker"})) == 1, 60, plane.said("operator"))  # fmt: skip
    helm(plane, "upgrade", "mind", str(CHART), "--set", "config.roles.sage.frame=Be wise.")
    assert plane.api("GET", f"/api/v1/namespaces/{SPACE}/secrets/mind-consilium")["data"] == secret
    helm(plane, "uninstall", "mind")
    plane.api("GET", f"/api/v1/namespaces/{SPACE}/secrets/mind-consilium")
    plane.api("GET", f"/api/v1/namespaces/{SPACE}/persistentvolumeclaims/mind-consilium-models")
