"""A small kubelet of the tests' own: pods become processes of this machine, each pod with a network, a root and volumes of its own.

    with ControlPlane(folder, nodes_managed=False) as plane, Kubelet(plane, "box"): ...

What it does as a real one: init containers one after the other, environment from Secrets, ConfigMaps and fields, volumes (emptyDir, ConfigMap, Secret, claims), a root that
may not be written where the manifest says so, probes, preStop and the grace of a pod, restarts, Jobs' ends. Names of Services are looked up in a file of hosts that is kept up
to date, and lead to a pod directly. Containers run as the user and the group that the manifest names. What it does not: images (every container is this machine's own
programs), liveness and startup probes, limits of CPU and memory. However the test ends, a shell beside it takes away what the pods were (sweeper.py).

Needs root, `ip` and overlay mounts; where they are missing the test is skipped.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.real.disks import provide
from tests.real.pod import Pod, do, now
from tests.real.sweeper import Sweeper

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.3
TELLS_S = 8.0


def may_run() -> str:
    """Return why pods cannot be run here, or nothing."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "needs root and iproute2"
    tried = subprocess.run(
        ["unshare", "-m", "-n", "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return tried.stderr.strip() if tried.returncode else ""


class Kubelet:
    """One node whose pods run.

    cpus, memory, gpus  what it lends
    """

    def __init__(self, plane, name, *, cpus=8, memory="20Gi"):
        if why := may_run():
            pytest.skip(f"pods cannot be run here: {why}")
        self.plane, self.name = plane, name
        self.folder = Path(plane.folder) / f"kubelet-{name}"
        self.folder.mkdir()
        self.cpus, self.memory = cpus, memory
        self.hosts = self.folder / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n")
        self.tag = secrets.token_hex(2)
        self.net = ipaddress.ip_network(f"10.97.{secrets.randbelow(250)}.0/24")
        self._addresses = iter(list(self.net.hosts())[1:])
        self.pods: dict[str, Pod] = {}
        self._born, self._told = now(), -TELLS_S
        self.sweeper = Sweeper()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def bridge(self):
        return f"cb{self.tag}"

    def __enter__(self):
        gateway = next(iter(self.net.hosts()))
        self.sweeper.remember(f"ip link del {self.bridge}")
        do("ip", "link", "add", self.bridge, "type", "bridge")
        do("ip", "addr", "add", f"{gateway}/24", "dev", self.bridge)
        do("ip", "link", "set", self.bridge, "up")
        self.plane.add_node(self.name, cpus=self.cpus, memory=self.memory)
        self._live()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join(120)
        for pod in self.pods.values():
            pod.kill()
        for pod in self.pods.values():
            pod.join(120)
        self.sweeper.close()

    def logs(self, start, container, most=3000):
        """Return the end of what a container said, of the newest pod whose name begins so."""
        found = [pod for pod in self.pods.values() if pod.name.startswith(start)]
        return found[-1].log(container).read_text(errors="replace")[-most:] if found else "(no pod)"

    def address(self, start):
        """Return the address of a pod whose name begins so."""
        return next(str(pod.ip) for pod in self.pods.values() if pod.name.startswith(start))

    # the loop

    def _live(self):
        """Say that the node is there. Who is silent for 40 s is taken for dead, and no pod on it for ready."""
        if time.monotonic() - self._told < TELLS_S:
            return
        self._told = time.monotonic()
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": now(), "lastTransitionTime": self._born}  # fmt: skip
        address = {"type": "InternalIP", "address": str(next(iter(self.net.hosts())))}
        self.plane.api(
            "PATCH", f"/api/v1/nodes/{self.name}/status", {"status": {"conditions": [ready], "addresses": [address]}},
            content_type="application/merge-patch+json",
        )  # fmt: skip

    def _run(self):
        while not self._ending.wait(POLL_S):
            with contextlib.suppress(Exception):  # the server may be gone for a moment, as in life
                self._live()
                provide(self.plane, self.disk)
                self._write_hosts()
                self._look()

    def _look(self):
        there = self.plane.list("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}")
        for manifest in there:
            uid = manifest["metadata"]["uid"]
            if uid not in self.pods:
                if manifest["metadata"].get("deletionTimestamp"):
                    self.forget(manifest)
                    continue
                self.pods[uid] = Pod(self, manifest, next(self._addresses))
                self._write_hosts()  # a pod knows its own name from the start
                self.pods[uid].start()
            elif manifest["metadata"].get("deletionTimestamp"):
                self.pods[uid].ask_to_end(manifest)

    def forget(self, manifest):
        meta = manifest["metadata"]
        self.plane.api("DELETE", f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", {"gracePeriodSeconds": 0}, ok=False)  # fmt: skip

    def disk(self, space, claim):
        return self.folder / "disks" / f"{space}-{claim}"

    def _write_hosts(self):
        """Name each Service by the address of a pod that is ready, as a proxy would send its callers there."""
        lines = ["127.0.0.1 localhost"]
        pods = self.plane.list("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}")
        lines += [f"{pod.ip} {pod.pod_name}" for pod in self.pods.values()]
        for service in self.plane.list("/api/v1/services"):
            wanted = service["spec"].get("selector")
            if not wanted:
                continue
            meta, unready = service["metadata"], service["spec"].get("publishNotReadyAddresses")
            for pod in pods:
                labels, status = pod["metadata"].get("labels", {}), pod.get("status", {})
                is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", ()))  # fmt: skip
                chosen = wanted.items() <= labels.items() and pod["metadata"]["namespace"] == meta["namespace"]  # fmt: skip
                if chosen and status.get("podIP") and (is_ready or unready) and status.get("phase") == "Running":  # fmt: skip
                    name, space = meta["name"], meta["namespace"]
                    lines.append(f"{status['podIP']} {name}.{space}.svc.cluster.local {name}.{space}.svc {name}.{space} {name}")  # fmt: skip
                    break
        text = "\n".join(lines) + "\n"
        if text != self.hosts.read_text():
            self.hosts.write_text(text)  # in place: it is mounted in the pods
