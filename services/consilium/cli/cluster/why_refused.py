"""Why pods of a release are not even made: the operator refuses the RayService, or the API server refuses its pods.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from consilium.cli.cluster.objects import condition, made_at, name_of, status_of
from consilium.cli.cluster.release import Release
from consilium.kernel.doctor import Finding, Level

SILENT_S: Final = 60.0
"""The operator answers within a second or two."""
_INVALID: Final = (
    "InvalidRayServiceSpec",
    "InvalidRayServiceMetadata",
    "InvalidRayClusterSpec",
    "InvalidRayClusterMetadata",
)
_QUOTA: Final = re.compile(r"exceeded quota: (?P<quota>[^,]+), requested: (?P<asked>.+?), used: (?P<used>.+?), limited: (?P<limit>.+)$")  # fmt: skip
_POD_SECURITY: Final = re.compile(r'violates PodSecurity "(?P<level>[^"]+)": (?P<what>.+)$')
_RUNTIME: Final = re.compile(r'RuntimeClass "(?P<name>[^"]+)" not found')
_LIMIT_RANGE: Final = re.compile(r"(?:minimum|maximum) (?:cpu|memory|storage|ephemeral-storage) usage per|must be less than or equal to cpu limit|LimitRange")  # fmt: skip
_PRIORITY: Final = re.compile(r"no PriorityClass with name (?P<name>\S+)")


def findings(release: Release) -> Iterator[Finding]:
    """Yield why the operator or the API server makes no pods."""
    yield from _nothing(release)
    yield from _invalid(release)
    yield from _silent(release)
    yield from _refused(release)


def _nothing(release: Release) -> Iterator[Finding]:
    if not release.has_nothing():
        return
    seen = f"; releases there: {', '.join(release.others)}" if release.others else ""
    yield Finding(
        "release_unknown",
        "release",
        Level.FAILURE,
        f"there is no release {release.name!r} in the namespace {release.namespace}{seen}",
        "helm list --all-namespaces shows where it is; name the namespace with -n.",
    )


def _invalid(release: Release) -> Iterator[Finding]:
    for service in release.services:
        ready = condition(service, "Ready")
        if ready.get("reason") == "ValidationFailed":
            said = ready.get("message", "")
        elif ready.get("reason") == "InitializingTimeout":
            yield Finding(
                "rayservice_timed_out",
                "RayService",
                Level.FAILURE,
                f"{name_of(service)} did not come up within the time of its annotation ray.io/initializing-timeout, and the operator never tries it again",
                f"Take the annotation out and make it anew: kubectl -n {release.namespace} delete rayservice {name_of(service)}, then helm upgrade {release.name} with the same values.",
            )
            continue
        else:
            event = next(release.events_of(*_INVALID), None)
            if event is None or status_of(service).get("conditions"):
                continue
            said = event.get("message", "")
        yield Finding(
            "rayservice_invalid",
            "RayService",
            Level.FAILURE,
            f"the KubeRay operator refuses {name_of(service)}: {said.partition(' is invalid: ')[2] or said}",
            f"Correct the value that it names and run helm upgrade {release.name} again; what the chart made is shown by: helm get manifest {release.name} -n {release.namespace}",
        )


def _silent(release: Release) -> Iterator[Finding]:
    for service in release.services:
        age_s = release.now - made_at(service)
        if not status_of(service) and age_s > SILENT_S:
            yield Finding(
                "operator_silent",
                "KubeRay operator",
                Level.FAILURE,
                f"nobody has looked at the RayService {name_of(service)} for {age_s / 60:.0f} min: the operator does not run, or watches other namespaces",
                "kubectl get pods -A -l app.kubernetes.io/name=kuberay-operator shows it; without one run k8s/prerequisites/install.sh.",
            )


def _refused(release: Release) -> Iterator[Finding]:
    for who, said in _refusals(release):
        yield refusal(release, who, said)


def _refusals(release: Release) -> Iterator[tuple[str, str]]:
    """Yield who wanted to make pods, and what the API server said to it."""
    for cluster in release.clusters:
        failed = condition(cluster, "ReplicaFailure")
        if failed.get("status") == "True":
            yield f"RayCluster {name_of(cluster)}", failed.get("message", "").partition("\n")[2]
    lacking = {name_of(one) for one in release.jobs if not _has_pods(release, name_of(one))}
    lacking |= {name_of(one) for one in (*release.sets, *release.deployments) if _lacks(one)}
    told: set[str] = set()
    for event in release.events_of("FailedCreate"):
        about = event.get("involvedObject") or {}
        name = about.get("name", "")
        if name in lacking and name not in told:
            told.add(name)
            yield f"{about.get('kind', 'object')} {name}", event.get("message", "")


def _has_pods(release: Release, job: str) -> bool:
    owners = (
        owner
        for pod in release.pods
        for owner in pod.get("metadata", {}).get("ownerReferences") or ()
    )
    status = next((status_of(one) for one in release.jobs if name_of(one) == job), {})
    return bool(status.get("succeeded")) or any(owner.get("name") == job for owner in owners)


def _lacks(one: object) -> bool:
    found = one if isinstance(one, dict) else {}
    wanted = (found.get("spec") or {}).get("replicas", 1)
    return bool(status_of(found).get("replicas", 0) < wanted)


def refusal(release: Release, who: str, said: str) -> Finding:
    """Return in words why the API server took no pod."""
    space = release.namespace
    if found := _QUOTA.search(said):
        return Finding(
            "quota",
            "ResourceQuota",
            Level.FAILURE,
            f"{who} may make no pod: the quota {found['quota']} of {space} allows {found['limit']}; {found['used']} is in use, and the pod asks for {found['asked']}",
            f"Raise it (kubectl -n {space} edit resourcequota {found['quota']}), ask for less in head.resources or workers[].resources, or install into another namespace.",
        )
    if found := _POD_SECURITY.search(said):
        return Finding(
            "pod_security",
            "PodSecurity",
            Level.FAILURE,
            f"{who} may make no pod: the namespace {space} enforces {found['level']}, and the pod has: {found['what']}",
            f"Pods of the chart keep to restricted; look at what podLabels, extra mounts or an admission webhook added. Or: kubectl label namespace {space} pod-security.kubernetes.io/enforce=baseline --overwrite",
        )
    if found := _RUNTIME.search(said):
        return Finding(
            "runtime_class_missing",
            "RuntimeClass",
            Level.FAILURE,
            f"{who} may make no pod: gpu.runtimeClassName is {found['name']}, and the cluster has no RuntimeClass of that name",
            f"k8s/prerequisites/install.sh makes it on k3s; elsewhere the GPU operator does. Where pods get cards without one: helm upgrade {release.name} ... --set gpu.runtimeClassName=",
        )
    if _LIMIT_RANGE.search(said):
        return Finding(
            "limit_range",
            "LimitRange",
            Level.FAILURE,
            f"{who} may make no pod: {said}",
            f"kubectl -n {space} describe limitrange shows the bounds; change them, or head.resources and workers[].resources.",
        )
    if found := _PRIORITY.search(said):
        return Finding(
            "priority_class_missing",
            "PriorityClass",
            Level.FAILURE,
            f"{who} may make no pod: {said}",
            f"Make the PriorityClass {found['name']}, or leave it out of the values.",
        )
    return Finding(
        "pods_refused",
        "pods",
        Level.FAILURE,
        f"{who} may make no pod: {said}",
        "An admission controller of this cluster said so; its owner can change the rule, or the values can meet it.",
    )
