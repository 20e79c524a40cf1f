"""Why a container does not begin: its image does not come, or what it is made from is not there.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from consilium.cli.cluster.objects import Container, Object, name_of
from consilium.cli.cluster.release import Release
from consilium.kernel.doctor import Finding, Level

_PULL: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable")  # fmt: skip
_CASES: Final[tuple[tuple[str, re.Pattern[str], str, str], ...]] = (
    (
        "image_disk_full",
        re.compile(r"no space left on device|disk pressure", re.IGNORECASE),
        "the node's disk is full",
        "The GPU image takes about 20 GB unpacked. On the node: sudo crictl rmi --prune (k3s: sudo k3s crictl rmi --prune), or a larger disk under /var/lib/rancher or /var/lib/containerd.",
    ),
    (
        "image_no_access",
        re.compile(r"unauthorized|denied|authentication required|no basic auth|401|403", re.IGNORECASE),
        "the registry does not let this cluster in",
        "kubectl -n {space} create secret docker-registry registry --docker-server=... --docker-username=... --docker-password=..., and global.imagePullSecrets: [registry]",
    ),
    (
        "image_wrong_machine",
        re.compile(r"no match for platform|exec format error", re.IGNORECASE),
        "it is not made for this node's processor",
        "Choose nodes with nodeSelector: kubernetes.io/arch: amd64, or build the image for this one.",
    ),
    (
        "image_too_often",
        re.compile(r"toomanyrequests|rate limit|429", re.IGNORECASE),
        "the registry says that it was asked too often",
        "Sign in (global.imagePullSecrets), use a mirror (global.imageRegistry), or wait an hour.",
    ),
    (
        "image_missing",
        re.compile(r"not found|manifest unknown|does not exist|NotFound", re.IGNORECASE),
        "there is no such image",
        "Correct images.*.repository and .tag; on one box without a registry build it and bring it in: k3s ctr images import FILE (k8s/README.md).",
    ),
    (
        "registry_unreached",
        re.compile(r"no such host|i/o timeout|connection refused|x509|TLS|EOF|dial tcp", re.IGNORECASE),
        "the registry is not reached from the node",
        "See the node's DNS, proxy and clock; without the internet bring the image in by hand, or name a mirror in global.imageRegistry.",
    ),
)  # fmt: skip


def findings(release: Release) -> Iterator[Finding]:
    """Yield which images do not come, and which containers cannot be made."""
    for one in release.containers():
        reason = one.waiting.get("reason", "")
        if reason in _PULL:
            yield _pull(release, one, _said(release, one))
        elif reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
            yield _made(release, one)


def _said(release: Release, one: Container) -> str:
    """Return the fullest sentence about a pull: ImagePullBackOff itself says only that it waits."""
    own = str(one.waiting.get("message", ""))
    for event in release.events_of("Failed"):
        about = event.get("involvedObject") or {}
        if about.get("name") == name_of(one.pod) and one.spec.get("image", "?") in event.get("message", ""):  # fmt: skip
            return f"{event['message']} {own}"
    return own


def _pull(release: Release, one: Container, said: str) -> Finding:
    image, pod = one.spec.get("image", ""), name_of(one.pod)
    if one.waiting.get("reason") == "InvalidImageName":
        return Finding("image_name", "image", Level.FAILURE, f"{image!r} is no name of an image ({pod})", "Correct images.*.repository, .tag, .digest or global.imageRegistry.")  # fmt: skip
    for kind, pattern, why, way_out in _CASES:
        if pattern.search(said):
            return Finding(kind, "image", Level.FAILURE, f"{image} does not come to {_node(one.pod)} for {pod}: {why}", way_out.format(space=release.namespace))  # fmt: skip
    return Finding("image_pull", "image", Level.FAILURE, f"{image} does not come for {pod}: {said}", f"kubectl -n {release.namespace} describe pod {pod}")  # fmt: skip


def _node(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("nodeName", "its node"))


def _made(release: Release, one: Container) -> Finding:
    said, pod = str(one.waiting.get("message", "")), name_of(one.pod)
    if "secret" in said or "configmap" in said or "couldn't find key" in said:
        return Finding("secret_missing", "secrets", Level.FAILURE, f"{pod} cannot start {one.name}: {said}", f"secrets.existingSecret and secrets.environmentSecret must name Secrets of {release.namespace} with all keys of the chart's README; kubectl -n {release.namespace} get secrets")  # fmt: skip
    if "runAsNonRoot" in said:
        return Finding("image_is_root", "image", Level.FAILURE, f"{pod} cannot start {one.name}: {said}", "The chart's pods run as user 10001; the image in images.* must allow it.")  # fmt: skip
    if "nvidia-container-cli" in said or "nvidia-container-runtime" in said:
        return Finding("driver_broken", "GPUs", Level.FAILURE, f"{pod} cannot start {one.name}, since the node's driver does not answer: {said}", "On the node run nvidia-smi; after an update of the driver restart the node.")  # fmt: skip
    return Finding("container_not_made", "containers", Level.FAILURE, f"{pod} cannot start {one.name}: {said}", f"kubectl -n {release.namespace} describe pod {pod}")  # fmt: skip
