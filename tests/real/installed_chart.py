"""The chart installed with Helm in a control plane whose pods run: what an owner has after `helm install`, and how a test asks it.

with installed(folder, "cpu", "config.model=tiny") as chart:
    chart.until_ready()
    chart.chat("Hello")
"""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import time
from functools import cached_property
from pathlib import Path

import httpx
import pytest

from tests.real.control_plane import ControlPlane
from tests.real.kubelet import Kubelet, may_run
from tests.real.tools import tool

CHART = Path(__file__).resolve().parents[2] / "helm" / "consilium"
SPACE, RELEASE = "llm", "mind"
NAME = f"{RELEASE}-consilium"
HELM_S = 600.0
CLASS = {
    "apiVersion": "storage.k8s.io/v1",
    "kind": "StorageClass",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    "provisioner": "test.local/none",
    "volumeBindingMode": "Immediate",
}  # fmt: skip


class Chart:
    """One release.

    installed_at  when `helm install` was called, as time.monotonic() has it
    """

    def __init__(self, plane, kubelet, values):
        self.plane, self.kubelet, self._values = plane, kubelet, values
        self.installed_at = time.monotonic()
        self.helm("install", RELEASE, str(CHART), *values)

    def helm(self, *words):
        """Run Helm 4 and return what it said; a failure fails the test, with the pods' words."""
        done = subprocess.run(
            [tool("helm"), *words, "-n", SPACE, "--kubeconfig", str(self.plane.kubeconfig)],
            capture_output=True, text=True, timeout=HELM_S, check=False, env={**os.environ, "HOME": str(self.plane.folder)},
        )  # fmt: skip
        assert done.returncode == 0, f"helm {words[0]}: {done.stdout}\n{done.stderr}\n{self.said()}"
        return done.stdout + done.stderr

    def upgrade(self, *settings):
        """`helm upgrade` with the values of before and these."""
        self.helm("upgrade", RELEASE, str(CHART), *self._values, *_set(settings))

    def get(self, path):
        """Return an object of the namespace: "api/v1 pods", "apis/ray.io/v1 rayservices/NAME"."""
        version, _, rest = path.partition(" ")
        return self.plane.api("GET", f"/{version}/namespaces/{SPACE}/{rest}")

    def pods(self, component):
        """Return the pods of a component that are not ending, by name."""
        chosen = {"labelSelector": f"app.kubernetes.io/component={component},app.kubernetes.io/instance={RELEASE}"}  # fmt: skip
        found = self.plane.list(f"/api/v1/namespaces/{SPACE}/pods", **chosen)
        return {pod["metadata"]["name"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}  # fmt: skip

    def running(self, name):
        """Return what the small kubelet holds of a pod."""
        return next(pod for pod in self.kubelet.pods.values() if pod.pod_name == name)

    def restarts(self):
        """Return pod -> container -> how often it was started again, of the pods that stay."""
        return {name: dict(self.running(name).restarts) for component in ("head", "worker", "redis") for name in self.pods(component)}  # fmt: skip

    def said(self, most=1500):
        """Return the end of every log, for a test that fails."""
        logs = [file for pod in self.kubelet.pods.values() for file in sorted(pod.folder.glob("*.log"))]  # fmt: skip
        return "\n".join(f"== {file.parent.name}/{file.name}\n{file.read_text(errors='replace')[-most:]}" for file in logs)  # fmt: skip

    # readiness

    def state(self):
        """Return the status of the RayService."""
        return self.get(f"apis/ray.io/v1 rayservices/{NAME}").get("status", {})

    def is_ready(self):
        """Say whether the operator calls it Ready, and Serve each of its applications RUNNING."""
        status = self.state()
        ready = {row["type"]: row["status"] for row in status.get("conditions", ())}.get("Ready")
        apps = (status.get("activeServiceStatus") or {}).get("applicationStatuses") or {}
        return ready == "True" and apps and all(app.get("status") == "RUNNING" for app in apps.values())  # fmt: skip

    def until(self, what, seconds, said):
        """Wait until something is so."""
        ends = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < ends, f"not within {seconds} s: {said}\n{self.state()}\n{self.said()}"  # fmt: skip
            time.sleep(0.5)
        return found

    def until_ready(self, seconds=600.0):
        """Wait for the RayService."""
        self.until(self.is_ready, seconds, "RayService Ready, applications RUNNING")

    # asking, from outside

    @cached_property
    def key(self):
        """The first key, as NOTES tell how to read it."""
        data = self.get(f"api/v1 secrets/{NAME}")["data"]
        return base64.b64decode(data["admin-key"]).decode()

    def url(self, component="worker", port=8000):
        """Return the address of the newest pod of a component, or nothing before it has one."""
        pods = sorted(self.pods(component).values(), key=lambda pod: pod["metadata"]["creationTimestamp"])  # fmt: skip
        address = pods[-1].get("status", {}).get("podIP") if pods else None
        return f"http://{address}:{port}" if address else ""

    def chat(self, model="base", component="worker", **fields):
        """Ask for a few tokens and return the answer, or None while nobody answers."""
        body = {"model": model, "max_tokens": 4, "messages": [{"role": "user", "content": "Say one word."}], **fields}  # fmt: skip
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.post(f"{self.url(component)}/v1/chat/completions", json=body, headers=self.headers, timeout=240)  # fmt: skip
            return answer if answer.status_code == 200 else None
        return None

    @property
    def headers(self):
        return {"Authorization": f"Bearer {self.key}"}


@contextlib.contextmanager
def installed(folder, preset, *settings):
    """Start a control plane and a node, install the chart from a preset, take all away on leaving. Skips where pods may not run."""
    if why := may_run():
        pytest.skip(f"pods cannot be run here: {why}")
    values = ("-f", str(CHART / "presets" / f"{preset}.yaml"), *_set(settings))
    with (
        ControlPlane(folder, nodes_managed=False, operator=False) as plane,
        Kubelet(plane, "box", cpus=16, memory="40Gi") as kubelet,
    ):
        plane.create(CLASS)
        plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})  # fmt: skip
        plane.run_operator(hosts=kubelet.hosts)
        yield Chart(plane, kubelet, values)


def _set(settings):
    return [word for setting in settings for word in ("--set", setting)]
