"""The small kubelet does what a real one does, where the chart's tests lean on it; and leaves nothing behind, however its test ends."""

import signal
import subprocess
import sys

import pytest
from tests.real.control_plane import ControlPlane
from tests.real.kubelet import Kubelet, may_run
from tests.waiting import until

pytestmark = pytest.mark.skipif(bool(may_run()), reason=f"pods cannot be run here: {may_run()}")
SPACE = "default"
SAYS = """
id -u; id -G; hostname; touch /root-file || echo read-only; touch /data/mine && stat -c %g /data/mine; df -m --output=size /memory | tail -1
trap 'echo asked; exit 0' TERM
while :; do cat /etc/words/word; sleep 0.2; done
"""
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "speaker", "namespace": SPACE},
    "spec": {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 120,
        "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10002},
        "containers": [
            {
                "name": "speaker",
                "image": "none",
                "command": ["bash", "-c", SAYS],
                "securityContext": {"readOnlyRootFilesystem": True},
                "lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "echo before; hostname; sleep 1"]}}},
                "readinessProbe": {"exec": {"command": ["test", "-f", "/data/mine"]}},
                "volumeMounts": [
                    {"name": "words", "mountPath": "/etc/words", "readOnly": True},
                    {"name": "data", "mountPath": "/data"},
                    {"name": "memory", "mountPath": "/memory"},
                ],
            }
        ],
        "volumes": [
            {"name": "words", "configMap": {"name": "words"}},
            {"name": "data", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
    },
}  # fmt: skip
WORDS = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words", "namespace": SPACE}, "data": {"word": "one\n"}}  # fmt: skip
KILLED = """
import sys, time
from tests.real.kubelet import Kubelet
class Plane:
    folder = sys.argv[1]
    def __getattr__(self, _name): return lambda *a, **k: []
kubelet = Kubelet(Plane(), "box")
with kubelet:
    print(kubelet.bridge, flush=True)
    time.sleep(600)
"""


def ask(plane, method="GET", body=None, **more):
    return plane.api(method, f"/api/v1/namespaces/{SPACE}/pods/speaker", body, ok=False, **more)


def is_ready(plane):
    conditions = ask(plane).get("status", {}).get("conditions", ())
    return {row["type"]: row["status"] for row in conditions}.get("Ready") == "True"


def test_a_pod_has_its_user_its_volumes_and_its_end(tmp_path):
    with (
        ControlPlane(tmp_path, nodes_managed=False, operator=False) as plane,
        Kubelet(plane, "box") as kubelet,
    ):
        plane.until(lambda: plane.list(f"/api/v1/namespaces/{SPACE}/serviceaccounts"))
        plane.create(WORDS)
        plane.create(POD)
        plane.until(lambda: is_ready(plane), 240, "the pod is ready")
        (pod,) = kubelet.pods.values()
        plane.api("PATCH", f"/api/v1/namespaces/{SPACE}/configmaps/words", {"data": {"word": "two\n"}}, content_type="application/merge-patch+json")  # fmt: skip
        plane.until(lambda: "two" in pod.log("speaker").read_text(), 240, "the new word")
        ask(plane, "DELETE")
        plane.until(lambda: ask(plane).get("code") == 404, 240, "the pod is gone")
        said = [line.strip() for line in pod.log("speaker").read_text().splitlines()]
        assert said[:3] == ["10001", "10001 10002", "speaker"], said[:8]
        assert "read-only" in said[3:5]
        assert said[5:7] == ["10002", "16"], said[:8]
        assert said[-1] == "asked"
        assert set(said[7:-1]) == {"one", "two"}
        assert pod.log("prestop").read_text().split() == ["before", "speaker"]
    assert not names_of("netns", kubelet.tag)
    assert not names_of("link", kubelet.bridge)


def test_a_test_that_is_killed_leaves_no_bridge(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        bridge = process.stdout.readline().strip()
        assert names_of("link", bridge)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
    until(lambda: not names_of("link", bridge), 120, "the bridge is gone", every_s=0.1)


def names_of(kind, part):
    """Return the network namespaces or links whose names hold a text."""
    said = subprocess.run(["ip", "-o", *([kind] if kind == "link" else ["netns", "list"])], capture_output=True, text=True, check=True)  # fmt: skip
    return [line for line in said.stdout.splitlines() if part in line]
