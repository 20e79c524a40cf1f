"""Why a release whose pods run does not answer yet: Serve's applications, a head that is missing, a change that was not taken over.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from consilium.cli.cluster import last_words
from consilium.cli.cluster.objects import (
    Object,
    component_of,
    containers,
    is_true,
    made_at,
    name_of,
    requested,
    status_of,
)
from consilium.cli.cluster.release import Release
from consilium.cli.cluster.why_failed import GPU_WAY_OUT, NCCL_WAY_OUT, by_log
from consilium.kernel.doctor import Finding, Level

_BAD: Final = ("DEPLOY_FAILED", "UNHEALTHY")
_BUSY: Final = ("DEPLOYING", "NOT_STARTED", "UPDATING", "UPSCALING")
_SHORT: Final = re.compile(r"Resources required for each replica: (?P<asked>.+?), total resources available: (?P<there>.+?)\. Use")  # fmt: skip
_CLEANER: Final = "ray.io/gcs-ft-redis-cleanup-finalizer"
STUCK_S: Final = 300.0
SLOW_S: Final = 1200.0
"""Twenty minutes: a large model from a slow disk, with compiling."""


def findings(release: Release) -> Iterator[Finding]:
    """Yield why running pods do not answer."""
    yield from _suspended(release)
    yield from _applications(release)
    yield from _second_cluster(release)
    yield from _not_taken_over(release)
    yield from _waits_for_head(release)
    yield from _ending(release)


def _suspended(release: Release) -> Iterator[Finding]:
    for service in (*release.services, *release.clusters):
        if (service.get("spec") or {}).get("suspend") or is_true(service, "RayClusterSuspended"):
            kind = str(service.get("kind", "RayCluster")).lower()
            yield Finding("suspended", "Ray", Level.FAILURE, f"{name_of(service)} is suspended: it has no pods until somebody lets it go on", f"kubectl -n {release.namespace} patch {kind} {name_of(service)} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'")  # fmt: skip


def applications(service: Object) -> Mapping[str, Any]:
    """Return Serve's applications as the operator saw them last: of the cluster that comes up, else of the one that answers."""
    status = status_of(service)
    for key in ("pendingServiceStatus", "activeServiceStatus"):
        found: Mapping[str, Any] = (status.get(key) or {}).get("applicationStatuses") or {}
        if found:
            return found
    return {}


def _applications(release: Release) -> Iterator[Finding]:
    for service in release.services:
        for name, app in applications(service).items():
            status = app.get("status", "")
            if status in _BAD:
                yield _bad(release, name, status, _messages(app))
            elif status in _BUSY:
                yield _busy(release, name, _messages(app))


def _messages(app: Mapping[str, Any]) -> str:
    """Return what Serve says of an application and its deployments, each once."""
    rows = [app.get("message", "")]
    rows += [row.get("message", "") for row in (app.get("serveDeploymentStatuses") or {}).values()]
    return "\n".join(dict.fromkeys(row for row in rows if row))


def _bad(release: Release, name: str, status: str, said: str) -> Finding:
    sentence = last_words.of_traceback(said)
    if sentence.code == "gpu_missing":
        return Finding("no_gpu_in_pod", "GPUs", Level.FAILURE, f"{name} does not start: {sentence.text}", GPU_WAY_OUT)  # fmt: skip
    if found := by_log(release, name, said):
        return found
    if sentence.code:
        return Finding(sentence.code, "application", Level.FAILURE, f"{name} does not start: {sentence.text}", f"{sentence.way_out} Then helm upgrade {release.name} with the values corrected.".strip())  # fmt: skip
    return Finding(f"application_{status.lower()}", "application", Level.FAILURE, f"{name} is {status}: {sentence.text or 'Serve says nothing more'}", f"The whole of it: {_engine_log(release)}")  # fmt: skip


def _engine_log(release: Release) -> str:
    """Return the command that shows what the engines said: Ray keeps it in files of the pod, and kubectl logs does not have it."""
    workers = [name_of(pod) for pod in release.pods if component_of(pod) == "worker"]
    pod = workers[0] if workers else "POD"
    return f"kubectl -n {release.namespace} exec {pod} -c ray-worker -- sh -c 'tail -n 40 /tmp/ray/session_latest/logs/worker-*.err'"


def _busy(release: Release, name: str, said: str) -> Finding:
    if found := _SHORT.search(said):
        return Finding("replicas_have_no_place", "application", Level.FAILURE, f"{name} finds no place in the Ray cluster: each replica asks for {found['asked']}, and free are {found['there']}", "Give workers more replicas, gpus or cpu (resources.requests.cpu is what Ray lends), or ask for fewer in config.topology and config.gateway.replicas.")  # fmt: skip
    sentence = last_words.of_traceback(said) if "Error" in said else last_words.Sentence("", "")
    if sentence.text:
        return Finding("application_tries_again", "application", Level.WARNING, f"{name} failed and is started again: {sentence.text}", sentence.way_out or "It is tried three times; then it says so.")  # fmt: skip
    begun = min((made_at(cluster) for cluster in release.clusters), default=release.now)
    if release.now - begun > SLOW_S and "to initialize" in said:
        cards = (
            "Several cards that wait for each other look like this. "
            if _has_groups(release)
            else ""
        )
        return Finding("application_slow", "application", Level.WARNING, f"{name} has been starting for {(release.now - begun) / 60:.0f} min", f"{_engine_log(release)} shows where it stands. {cards}{NCCL_WAY_OUT if cards else 'A first start fetches the model and compiles.'}")  # fmt: skip
    return Finding("application_starting", "application", Level.NOTE, f"{name} is starting; a first start fetches the model and compiles", _engine_log(release))  # fmt: skip


def _has_groups(release: Release) -> bool:
    """Return whether an engine runs over several cards of a pod, or over several pods."""
    workers = [pod for pod in release.pods if component_of(pod) == "worker"]
    cards = [sum(much for what, much in requested(pod).items() if "gpu" in what) for pod in workers]
    return any(much > 1 for much in cards) or sum(much > 0 for much in cards) > 1


def _second_cluster(release: Release) -> Iterator[Finding]:
    for service in release.services:
        status = status_of(service)
        old = (status.get("activeServiceStatus") or {}).get("rayClusterName")
        new = (status.get("pendingServiceStatus") or {}).get("rayClusterName")
        kind = ((service.get("spec") or {}).get("upgradeStrategy") or {}).get("type", "unset")
        if old and new and kind != "None":
            yield Finding("upgrade_needs_twice", "upgrade", Level.WARNING, f"the upgrade builds a second cluster, {new}, beside {old} (upgradeStrategy {kind}); until it is ready every card is needed twice", f"Where the cards do not suffice: kubectl -n {release.namespace} delete raycluster {old}. The chart ships upgradeStrategy None.")  # fmt: skip


def _not_taken_over(release: Release) -> Iterator[Finding]:
    for service in release.services:
        for cluster in release.clusters:
            differing = sorted(_differences(service, cluster))
            if differing:
                yield Finding("not_taken_over", "upgrade", Level.WARNING, f"the last helm upgrade changed the pods ({'; '.join(differing)}), and the running cluster {name_of(cluster)} has not taken it over: a second cluster would need every card twice", f"When answers may stop for a while: kubectl -n {release.namespace} delete raycluster -l ray.io/originated-from-cr-name={name_of(service)}")  # fmt: skip


def _differences(service: Object, cluster: Object) -> Iterator[str]:
    """Yield what the RayService wants of its pods and the cluster does not have."""
    wanted = dict(_groups((service.get("spec") or {}).get("rayClusterConfig") or {}))
    running = dict(_groups(cluster.get("spec") or {}))
    for name in wanted.keys() ^ running.keys():
        yield f"group {name}"
    for name in wanted.keys() & running.keys():
        for field, value in wanted[name].items():
            if running[name].get(field) != value:
                yield f"{field} of {name}"


def _groups(spec: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = [("head", spec.get("headGroupSpec") or {})]
    rows += [(row.get("groupName", ""), row) for row in spec.get("workerGroupSpecs") or ()]
    for name, row in rows:
        pod = (row.get("template") or {}).get("spec") or {}
        first: Mapping[str, Any] = next(iter(pod.get("containers") or ()), {})
        yield (
            name,
            {
                "image": first.get("image"),
                "resources": first.get("resources"),
                "environment": first.get("env"),
                "runtimeClassName": pod.get("runtimeClassName"),
                "nodeSelector": pod.get("nodeSelector"),
                "replicas": row.get("replicas"),
            },
        )


def _waits_for_head(release: Release) -> Iterator[Finding]:
    heads = [pod for pod in release.pods if component_of(pod) == "head"]
    if any(is_true(pod, "Ready") for pod in heads):
        return
    for pod in release.pods:
        if any(one.name == "wait-gcs-ready" and one.is_running for one in containers(pod)):
            head = name_of(heads[0]) if heads else "a head that is not there"
            yield Finding("waits_for_head", "Ray", Level.NOTE, f"{name_of(pod)} waits for {head}, which is not ready", "It goes on by itself; see what is said of the head.")  # fmt: skip
            return


def _ending(release: Release) -> Iterator[Finding]:
    for one in (*release.pods, *release.clusters):
        meta = one.get("metadata", {})
        if not meta.get("deletionTimestamp"):
            continue
        if _CLEANER in (meta.get("finalizers") or ()):
            yield Finding("gcs_cleanup_hangs", "Ray", Level.WARNING, f"{name_of(one)} cannot end: the operator's Job that clears Ray's state in Redis does not finish", f"kubectl -n {release.namespace} get jobs shows it; if its Redis is gone: kubectl -n {release.namespace} patch raycluster {name_of(one)} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'")  # fmt: skip
        elif release.now - made_at({"metadata": {"creationTimestamp": meta["deletionTimestamp"]}}) > STUCK_S:  # fmt: skip
            yield Finding("cannot_end", "pods", Level.WARNING, f"{name_of(one)} was told to end and has not", f"Its node may be gone; then: kubectl -n {release.namespace} delete pod {name_of(one)} --grace-period=0 --force")  # fmt: skip
