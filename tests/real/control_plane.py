"""A true control plane of Kubernetes on this machine: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, KWOK's nodes, and the KubeRay operator.

    with ControlPlane(folder) as plane:
        plane.add_node("box", gpus=2)
        plane.api("POST", "/api/v1/namespaces", {...})

No kubelet: KWOK says of each pod on its nodes that it runs. All are processes of the test, at free ports, with their data in its folder.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

from consilium.kernel.ports import free_port
from tests.real.server import Server
from tests.real.sweeper import Sweeper
from tests.real.tools import module_folder, tool

TOKEN = "of-this-test"
SERVICES = "10.99.0.0/16"
GIB = "Gi"


class _Part(Server):
    """One process of it. `ready` says when it answers; without it, as long as it lives."""

    def __init__(self, plane, name, words, ready=None):
        super().__init__(plane.folder)
        self.name = name
        self._words, self._ready = words, ready

    def words(self):
        return self._words

    def answers(self):
        return self._ready is None or self._ready()


class ControlPlane:
    """The whole of it.

    nodes_managed  whether KWOK plays the kubelet for nodes and pods; a test that runs pods itself says False
    """

    def __init__(self, folder, *, operator=True, nodes_managed=True):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ports = {
            name: free_port()
            for name in ("etcd", "peer", "api", "manager", "scheduler", "metrics", "probe", "kwok")
        }
        self._operator, self._kwok = operator, nodes_managed
        self._parts: list[_Part] = []
        self._client: httpx.Client | None = None
        self._sweeper = Sweeper()

    @property
    def url(self):
        return f"https://127.0.0.1:{self.ports['api']}"

    @property
    def kubeconfig(self):
        return self.folder / "kubeconfig"

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """End all, the last one first."""
        for part in reversed(self._parts):
            part.kill()
        self._parts.clear()
        self._sweeper.close()
        if self._client is not None:
            self._client.close()

    def said(self, name, most=4000):
        """Return the end of a part's log."""
        return next(part for part in self._parts if part.name == name).said(most)

    # asking

    def api(self, method, path, body=None, *, content_type="application/json", ok=True, **query):
        """Ask the API server. Return the object that it answers with; a refusal fails the test unless ok is False."""
        answer = self._client.request(
            method, path, params=query or None,
            content=json.dumps(body) if body is not None else None,
            headers={"content-type": content_type} if body is not None else None,
        )  # fmt: skip
        found = answer.json() if answer.content else {}
        if ok:
            assert answer.is_success, f"{method} {path}: {found.get('message', answer.text)}"
        return found

    def list(self, path, **query) -> list[dict[str, Any]]:
        """Return the objects of a list."""
        return self.api("GET", path, **query)["items"]

    def create(self, document):
        """Create an object from its manifest, with strict fields; return what the server made of it."""
        return self.api("POST", path_of(document), document, fieldValidation="Strict")

    def add_node(self, name, *, cpus=32, memory="256Gi", gpus=0, labels=None, taints=()):
        """Add a machine. KWOK says that it is ready."""
        lends = {"cpu": str(cpus), "memory": memory, "pods": "110", "ephemeral-storage": "900Gi"}
        if gpus:
            lends["nvidia.com/gpu"] = str(gpus)
        self.create(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": name,
                    "annotations": {"kwok.x-k8s.io/node": "fake"},
                    "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})},
                },
                "spec": {"taints": list(taints)},
            }
        )  # fmt: skip
        self.api(
            "PATCH", f"/api/v1/nodes/{name}/status", {"status": {"capacity": lends, "allocatable": lends}},
            content_type="application/merge-patch+json",
        )  # fmt: skip

    def until(self, what, seconds=240.0, said=""):
        """Wait until a question has a true answer, and return the answer."""
        ends = time.monotonic() + seconds
        while not (found := what()):
            assert time.monotonic() < ends, f"not within {seconds} s: {said}"
            time.sleep(0.1)
        return found

    # starting

    def _start(self):
        self._keys()
        ports, etcd = self.ports, f"http://127.0.0.1:{self.ports['etcd']}"
        peer = f"http://127.0.0.1:{ports['peer']}"
        self._run(
            "etcd", tool("etcd"), "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", etcd, "--advertise-client-urls", etcd,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}", "--log-level", "error",
            ready=lambda: _answers(f"{etcd}/health"),
        )  # fmt: skip
        kube = tool("kube")
        self._run(
            "apiserver", kube, "apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1",
            "--secure-port", str(ports["api"]), "--cert-dir", str(self.folder / "pki"),
            "--token-auth-file", str(self.folder / "tokens.csv"), "--authorization-mode", "Node,RBAC",
            "--service-account-key-file", str(self.folder / "sa.pub"),
            "--service-account-signing-key-file", str(self.folder / "sa.key"),
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--service-cluster-ip-range", SERVICES, "--enable-priority-and-fairness=false",
            "--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none",
            ready=self._api_ready,
        )  # fmt: skip
        config = ("--kubeconfig", str(self.kubeconfig), "--leader-elect=false")
        self._run(
            "controller-manager", kube, "controller-manager", *config, "--secure-port", str(ports["manager"]),
            "--service-account-private-key-file", str(self.folder / "sa.key"),
            "--root-ca-file", str(self.folder / "pki" / "apiserver.crt"), "--use-service-account-credentials",
            "--bind-address", "127.0.0.1",
        )  # fmt: skip
        self._run("scheduler", kube, "scheduler", *config, "--secure-port", str(ports["scheduler"]), "--bind-address", "127.0.0.1")  # fmt: skip
        self._client = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, verify=_trust(), timeout=30
        )  # fmt: skip
        if self._kwok:
            self._run_kwok()
        if self._operator:
            self.run_operator()

    def _keys(self):
        (self.folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        for words in (
            ("genrsa", "-out", "sa.key", "2048"),
            ("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"),
        ):
            subprocess.run(
                ["openssl", *words], cwd=self.folder, check=True, capture_output=True, timeout=60
            )
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "test", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
                    "users": [{"name": "admin", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                    "current-context": "test",
                }
            )
        )  # fmt: skip

    def _run(self, name, *words, ready=None):
        part = _Part(self, name, words, ready)
        self._parts.append(part)
        part.start()
        self._sweeper.remember(
            f"grep -qa {self.folder} /proc/{part.process.pid}/cmdline && kill -9 {part.process.pid}"
        )

    def _api_ready(self):
        return _answers(f"{self.url}/readyz", token=TOKEN)

    def _run_kwok(self):
        stages = module_folder("sigs.k8s.io/kwok", "v0.8.0") / "kustomize" / "stage"
        files = sorted(stages.glob("node/fast/*.yaml")) + sorted(stages.glob("node/heartbeat/*.yaml")) + sorted(stages.glob("pod/fast/*.yaml"))  # fmt: skip
        config = self.folder / "kwok.yaml"
        config.write_text("\n---\n".join(file.read_text() for file in files if not file.name.startswith("kustom")))  # fmt: skip
        self._run(
            "kwok", tool("kwok"), "--kubeconfig", str(self.kubeconfig), "--config", str(config), "--manage-all-nodes=true",
            "--cidr", "10.98.0.0/16", "--node-ip", "127.0.0.1", "--server-address", f"127.0.0.1:{self.ports['kwok']}",
        )  # fmt: skip

    def _knows_rayservices(self):
        """Say whether the API's table of contents, which Helm reads, has the operator's kinds."""
        wanted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        groups = self._client.get("/apis", headers={"accept": wanted}).json()["items"]
        ray = next((one for one in groups if one["metadata"]["name"] == "ray.io"), {})
        kinds = {row["responseKind"]["kind"] for version in ray.get("versions", ()) for row in version.get("resources", ())}  # fmt: skip
        return {"RayCluster", "RayService", "RayJob"} <= kinds

    def run_operator(self, hosts=None):
        """Start the operator. It asks heads of Ray by the names of their Services: `hosts` is a file that knows them."""
        crds = (
            module_folder("github.com/ray-project/kuberay/ray-operator", "v1.6.2")
            / "config"
            / "crd"
            / "bases"
        )
        for file in sorted(crds.glob("*.yaml")):
            self.create(yaml.safe_load(file.read_text()))
        self.until(self._knows_rayservices, 240, "discovery of ray.io/v1 RayService")
        names = ("unshare", "-m", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$0" "$@"') if hosts else ()  # fmt: skip
        self._run(
            "operator", *names, tool("ray-operator"), "--kubeconfig", str(self.kubeconfig), "--enable-leader-election=false",
            "--metrics-addr", f"127.0.0.1:{self.ports['metrics']}", "--health-probe-bind-address", f"127.0.0.1:{self.ports['probe']}",
            ready=lambda: _answers(f"http://127.0.0.1:{self.ports['probe']}/healthz"),
        )  # fmt: skip


def path_of(document):
    """Return the collection that an object belongs to."""
    version, kind = document["apiVersion"], document["kind"].lower()
    plural = (
        kind + ("es" if kind.endswith(("s", "ss")) else "s")
        if not kind.endswith("y")
        else f"{kind[:-1]}ies"
    )
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    space = document["metadata"].get("namespace")
    return f"{root}/namespaces/{space}/{plural}" if space else f"{root}/{plural}"


def _trust():
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _answers(url, token=""):
    try:
        return httpx.get(url, headers={"Authorization": f"Bearer {token or TOKEN}"}, verify=_trust(), timeout=10).status_code == 200  # fmt: skip
    except httpx.HTTPError:
        return False
