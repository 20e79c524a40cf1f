"""The Pod Security Standards of Kubernetes 1.30 to 1.36, baseline and restricted, for one pod: what they refuse, in words.

For pods of Linux. Ephemeral containers are not looked at: no chart makes any.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

Level = Literal["baseline", "restricted"]

ADDED = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
}  # fmt: skip
"""Capabilities that baseline lets a container add."""
SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
}  # fmt: skip
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}  # fmt: skip
"""Volumes that restricted lets a pod have."""


def refused(pod: Mapping[str, Any], level: Level) -> list[str]:
    """Return what a level refuses of a pod: {"metadata": ..., "spec": ...}. Empty = it may come in."""
    found = list(_baseline(pod))
    if level == "restricted":
        found += _restricted(pod["spec"])
    return found


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _contexts(spec: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "pod", spec.get("securityContext") or {}
    for one in _containers(spec):
        yield f"container {one['name']}", one.get("securityContext") or {}


def _baseline(pod: Mapping[str, Any]) -> Iterator[str]:
    spec = pod["spec"]
    yield from _of_the_node(spec)
    for one in _containers(spec):
        yield from _of_a_container(one)
    for where, said in _contexts(spec):
        yield from _of_a_context(where, said)
    for row in (spec.get("securityContext") or {}).get("sysctls") or ():
        if row["name"] not in SYSCTLS:
            yield f"sysctl {row['name']}"
    for key, value in (pod.get("metadata", {}).get("annotations") or {}).items():
        if key.startswith("container.apparmor.security.beta.kubernetes.io/") and value == "unconfined":  # fmt: skip
            yield "AppArmor unconfined"


def _of_the_node(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field
    for volume in spec.get("volumes", ()):
        if "hostPath" in volume:
            yield f"hostPath volume {volume['name']}"


def _of_a_container(one: Mapping[str, Any]) -> Iterator[str]:
    said = one.get("securityContext") or {}
    if said.get("privileged"):
        yield f"container {one['name']}: privileged"
    for name in set((said.get("capabilities") or {}).get("add") or ()) - ADDED:
        yield f"container {one['name']}: adds {name}"
    if said.get("procMount", "Default") != "Default":
        yield f"container {one['name']}: procMount"
    if any(port.get("hostPort") for port in one.get("ports", ())):
        yield f"container {one['name']}: hostPort"
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if (one.get(kind) or {}).get("httpGet", {}).get("host"):
            yield f"container {one['name']}: {kind} asks another host"


def _of_a_context(where: str, said: Mapping[str, Any]) -> Iterator[str]:
    options = said.get("seLinuxOptions") or {}
    if options.get("type") not in SELINUX or options.get("user") or options.get("role"):
        yield f"{where}: seLinuxOptions"
    for field in ("seccompProfile", "appArmorProfile"):
        if (said.get(field) or {}).get("type") == "Unconfined":
            yield f"{where}: {field} Unconfined"
    if (said.get("windowsOptions") or {}).get("hostProcess"):
        yield f"{where}: hostProcess"


def _restricted(spec: Mapping[str, Any]) -> Iterator[str]:
    for volume in spec.get("volumes", ()):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"{kind} volume {volume['name']}"
    whole = spec.get("securityContext") or {}
    if whole.get("runAsUser") == 0:
        yield "pod: runAsUser 0"
    for one in _containers(spec):
        where, said = f"container {one['name']}", one.get("securityContext") or {}
        if said.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: allowPrivilegeEscalation"
        if not said.get("runAsNonRoot", whole.get("runAsNonRoot")):
            yield f"{where}: runAsNonRoot"
        if said.get("runAsUser") == 0:
            yield f"{where}: runAsUser 0"
        profile = (said.get("seccompProfile") or whole.get("seccompProfile") or {}).get("type")
        if profile not in {"RuntimeDefault", "Localhost"}:
            yield f"{where}: seccompProfile"
        capabilities = said.get("capabilities") or {}
        if "ALL" not in (capabilities.get("drop") or ()):
            yield f"{where}: does not drop ALL"
        for name in set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
            yield f"{where}: adds {name}"
