"""What is known of a release: its objects, what happened to them, and what its containers said last.

    read(api, name, namespace)  asks the API server
    Release                     the answer, as plain objects

Does not know what is wrong (release_findings.py and its rules).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from consilium.cli.cluster.api import Api
from consilium.cli.cluster.objects import (
    INSTANCE,
    Container,
    Object,
    containers,
    is_true,
    labels_of,
    name_of,
    seconds,
)
from consilium.kernel.errors import ConsiliumError

LOGS: Final = 12
"""Containers whose logs are read, at most."""
KINDS: Final = {
    "services": "/apis/ray.io/v1/namespaces/{space}/rayservices",
    "clusters": "/apis/ray.io/v1/namespaces/{space}/rayclusters",
    "pods": "/api/v1/namespaces/{space}/pods",
    "jobs": "/apis/batch/v1/namespaces/{space}/jobs",
    "sets": "/apis/apps/v1/namespaces/{space}/statefulsets",
    "deployments": "/apis/apps/v1/namespaces/{space}/deployments",
    "claims": "/api/v1/namespaces/{space}/persistentvolumeclaims",
    "events": "/api/v1/namespaces/{space}/events",
    "classes": "/apis/storage.k8s.io/v1/storageclasses",
    "volumes": "/api/v1/persistentvolumes",
    "nodes": "/api/v1/nodes",
}
OF_RELEASE: Final = ("services", "clusters", "pods", "jobs", "sets", "deployments", "claims")


@dataclass(frozen=True, slots=True)
class Release:
    """A release and what is around it.

    logs     (pod, container) -> its last lines; of the run before where it was started again
    others   names of other releases of the namespace
    unread   what these credentials may not read, each with the reason
    now      Unix seconds
    """

    name: str
    namespace: str
    services: tuple[Object, ...] = ()
    clusters: tuple[Object, ...] = ()
    pods: tuple[Object, ...] = ()
    jobs: tuple[Object, ...] = ()
    sets: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    events: tuple[Object, ...] = ()
    classes: tuple[Object, ...] = ()
    volumes: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()
    logs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0

    def has_nothing(self) -> bool:
        """Return whether no object carries the release's name. What outlives it (claims) does not count."""
        return not (self.services or self.pods or self.jobs or self.sets or self.deployments)

    def containers(self) -> Iterator[Container]:
        """Yield every container of every pod that has not done its work."""
        for pod in self.pods:
            if (pod.get("status") or {}).get("phase") != "Succeeded":
                yield from containers(pod)

    def said(self, pod: str, container: str = "") -> str:
        """Return the last lines of a container, or of all containers of a pod."""
        return "\n".join(
            text for (of, by), text in self.logs.items() if of == pod and container in ("", by)
        )

    def events_of(self, *reasons: str) -> Iterator[Object]:
        """Yield what happened to objects of the release for one of these reasons, the newest first."""
        known = {name_of(one): one for kind in OF_RELEASE for one in getattr(self, kind)}
        rows = [one for one in self.events if one.get("reason") in reasons]
        for one in sorted(rows, key=happened_at, reverse=True):
            about = known.get((one.get("involvedObject") or {}).get("name", ""))
            if about is not None and is_about(one, about):
                yield one


def is_about(event: Object, one: Object) -> bool:
    """Return whether an event is about this object, and not about an earlier one of the same name."""
    about = event.get("involvedObject") or {}
    uid, own = about.get("uid"), one.get("metadata", {}).get("uid")
    return about.get("name") == name_of(one) and (not uid or not own or uid == own)


def happened_at(event: Object) -> float:
    """Return when an event was seen last, in Unix seconds."""
    series = (event.get("series") or {}).get("lastObservedTime")
    return seconds(series or event.get("lastTimestamp") or event.get("eventTime"))


def read(api: Api, name: str, namespace: str) -> Release:
    """Ask for everything that tells how a release fares. Raises ConsiliumError(kubernetes_unreached) if nothing can be read."""
    api.get("/version")
    found, unread = api.lists(KINDS, namespace)
    if "pods" in unread:
        raise ConsiliumError("kubernetes_unreached", name=api.access.name, reason=unread["pods"])
    others = {
        label
        for kind in ("services", "sets")
        for one in found.get(kind, ())
        if (label := labels_of(one).get(INSTANCE)) and label != name
    }
    own = {kind: tuple(_own(found.get(kind, ()), name)) for kind in OF_RELEASE}
    own["clusters"] = tuple(_made_by(found.get("clusters", ()), own["services"]))
    around = {kind: found.get(kind, ()) for kind in ("events", "classes", "volumes", "nodes")}
    rows: dict[str, Any] = {**own, **around}
    plain = Release(name, namespace, **rows)
    return replace(
        plain,
        logs=dict(_logs(api, plain)),
        others=tuple(sorted(others)),
        unread=unread,
        now=time.time(),
    )


def _own(rows: Iterable[Object], name: str) -> Iterator[Object]:
    return (one for one in rows if labels_of(one).get(INSTANCE) == name)


def _made_by(clusters: Iterable[Object], services: Iterable[Object]) -> Iterator[Object]:
    """Yield the Ray clusters that the operator made for these RayServices."""
    names = {name_of(one) for one in services}
    for one in clusters:
        owners = one.get("metadata", {}).get("ownerReferences") or ()
        if any(owner.get("kind") == "RayService" and owner.get("name") in names for owner in owners):  # fmt: skip
            yield one


def _logs(api: Api, release: Release) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield the last lines of containers that ended badly, that are not ready, and of Ray's while the release does not answer."""
    asked = 0
    is_waiting = not all(is_true(one, "Ready") for one in release.services)
    for one in release.containers():
        was_restarted = one.failed and "terminated" in (one.status.get("lastState") or {})
        is_late = one.is_running and (
            not one.status.get("ready") or (is_waiting and "ray-" in one.name)
        )
        if not (one.failed or is_late) or asked >= LOGS:
            continue
        asked += 1
        pod = name_of(one.pod)
        text = api.log(release.namespace, pod, one.name, previous=was_restarted)
        if text or was_restarted:
            yield (pod, one.name), text or api.log(release.namespace, pod, one.name, previous=False)
