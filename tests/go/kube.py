"""What the tests of the chart in a control plane share: Helm as a user calls it, and questions about pods."""

import os
import subprocess

from tests.real.tools import tool
from tests.unit.chart.rendered import CHART, EXPECTED

HELM_S = 600
SCHEDULED_S = 240.0
STORAGE = {
    "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "test.local/disks", "volumeBindingMode": "Immediate",
    "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
}  # fmt: skip


class Space:
    """One namespace of a control plane, with the releases in it.

    admitted  the level of PodSecurity that it enforces; restricted is also what it warns of
    """

    def __init__(self, plane, name, admitted="restricted"):
        self.plane, self.name = plane, name
        labels = {"pod-security.kubernetes.io/enforce": admitted, "pod-security.kubernetes.io/warn": admitted}  # fmt: skip
        plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})  # fmt: skip

    def helm(self, *words, ok=True, program="helm"):
        """Run Helm and return what it said, without colours. It may warn of nothing."""
        done = subprocess.run(
            [tool(program), *words, "--kubeconfig", str(self.plane.kubeconfig), "-n", self.name],
            capture_output=True, text=True, timeout=HELM_S, check=False,
            env={**os.environ, "HOME": str(self.plane.folder)},
        )  # fmt: skip
        said = done.stdout + done.stderr
        if ok:
            assert done.returncode == 0, said
            assert "warn" not in said.lower(), said
        else:
            assert done.returncode != 0, said
        return said

    def get(self, plural, name, group="api/v1", *, ok=True):
        """Return one object."""
        return self.plane.api("GET", f"/{group}/namespaces/{self.name}/{plural}/{name}", ok=ok)

    def list(self, plural, group="api/v1", **labels):
        """Return objects with these labels; a dot and a slash in a label are written `_` and `__`."""
        return self.plane.list(f"/{group}/namespaces/{self.name}/{plural}", **selecting(labels))

    def rayservice(self, name="mind-consilium"):
        return self.get("rayservices", name, "apis/ray.io/v1")

    def pods(self):
        """Return the pods that stay: not those of jobs, nor those that are being deleted."""
        return [
            pod for pod in self.list("pods")
            if not any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", ()))
            and not pod["metadata"].get("deletionTimestamp")
        ]  # fmt: skip

    def running(self, wanted):
        """Wait until so many pods run that stay, and all of them do. Return them."""

        def all_run():
            found = self.pods()
            return found if len(found) == wanted and all(is_running(pod) for pod in found) else None

        try:
            return self.plane.until(all_run, SCHEDULED_S)
        except AssertionError:
            raise AssertionError(f"not {wanted} pods run: {[told(pod) for pod in self.list('pods')]}") from None  # fmt: skip

    def patch(self, plural, name, change, group="api/v1"):
        return self.plane.api(
            "PATCH", f"/{group}/namespaces/{self.name}/{plural}/{name}", change, content_type="application/merge-patch+json"
        )  # fmt: skip

    def delete(self, plural, name, group="api/v1"):
        return self.plane.api("DELETE", f"/{group}/namespaces/{self.name}/{plural}/{name}")


def words_of(preset):
    """Return what a user gives Helm for a preset."""
    row = EXPECTED[preset]
    files = [
        word
        for name in (*row.get("with", ()), preset)
        for word in ("-f", str(CHART / "presets" / f"{name}.yaml"))
    ]
    return [
        *files,
        *(
            word
            for key, value in row.get("set", {}).items()
            for word in ("--set", f"{key}={value}")
        ),
    ]


def selecting(labels):
    return {"labelSelector": ",".join(f"{k}={v}" for k, v in labels.items())} if labels else {}


def is_running(pod):
    return pod["status"].get("phase") == "Running"


def told(pod):
    """Return what a person would want to know of a pod that does not run."""
    why = [c.get("message") for c in pod["status"].get("conditions", ()) if c["status"] != "True"]
    return pod["metadata"]["name"], pod["status"].get("phase"), why


def waits_because(pod):
    """Return why the scheduler has no place for a pod, or nothing."""
    return next(
        (c.get("message", "") for c in pod["status"].get("conditions", ()) if c["type"] == "PodScheduled" and c["status"] == "False"), ""
    )  # fmt: skip


def cards_of(pod):
    """Return how many cards a pod asks for."""
    return sum(
        int(count)
        for container in pod["spec"]["containers"]
        for name, count in container.get("resources", {}).get("limits", {}).items()
        if name.startswith("nvidia.com/")
    )


def uids(pods):
    return {pod["metadata"]["uid"] for pod in pods}
