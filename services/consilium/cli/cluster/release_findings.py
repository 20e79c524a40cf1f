"""What `consilium doctor --release` says: every rule asked, causes first, the same thing said once, and at the end whether it answers.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from consilium.cli.cluster import (
    volumes,
    why_failed,
    why_no_image,
    why_pending,
    why_refused,
    why_unready,
)
from consilium.cli.cluster.objects import is_true, name_of, status_of
from consilium.cli.cluster.release import Release
from consilium.kernel.doctor import Finding, Level

_RULES: Final = (
    why_refused.findings,
    volumes.findings,
    why_pending.findings,
    why_no_image.findings,
    why_failed.findings,
    why_unready.findings,
)
_RANK: Final = {Level.FAILURE: 0, Level.WARNING: 1, Level.NOTE: 2, Level.OK: 3}


def findings(release: Release) -> tuple[Finding, ...]:
    """Return why a release does not start, failures first; of one that is well, that it is."""
    found = [one for rule in _RULES for one in rule(release)]
    if not release.has_nothing():
        found += _whole(
            release, is_told=any(one.level in (Level.FAILURE, Level.WARNING) for one in found)
        )
    found += _unread(release)
    return tuple(sorted(_once(found), key=lambda one: _RANK[one.level]))


def _once(found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield each cause once; of several pods with the same cause the first is named, and the others are counted."""
    first: dict[tuple[str, str], Finding] = {}
    more: dict[tuple[str, str], int] = {}
    for one in found:
        key = (one.id, one.way_out)
        more[key] = more[key] + 1 if key in more else 0
        first.setdefault(key, one)
    for key, one in first.items():
        if more[key] and one.level is not Level.OK:
            yield replace(one, sentence=f"{one.sentence} (and {more[key]} more like it)")
        else:
            yield one


def _whole(release: Release, *, is_told: bool) -> Iterator[Finding]:
    """Yield how the release fares as a whole."""
    for service in release.services:
        points = status_of(service).get("numServeEndpoints", 0)
        if is_true(service, "Ready"):
            yield Finding("answers", "RayService", Level.OK, f"{name_of(service)} answers at {points} pod{'' if points == 1 else 's'}")  # fmt: skip
        elif not is_told:
            yield Finding("not_ready_yet", "RayService", Level.NOTE, f"{name_of(service)} does not answer yet, and nothing stands in its way: {_stage(release, service)}", f"Look again in a minute, or: kubectl -n {release.namespace} get pods -w -l app.kubernetes.io/instance={release.name}")  # fmt: skip
    rows = [pod for pod in release.pods if status_of(pod).get("phase") != "Succeeded"]
    ready = [pod for pod in rows if is_true(pod, "Ready")]
    if rows and len(ready) == len(rows):
        yield Finding("pods", "pods", Level.OK, f"all {len(rows)} are ready")
    elif rows:
        late = ", ".join(name_of(pod) for pod in rows if not is_true(pod, "Ready"))
        yield Finding("pods", "pods", Level.NOTE, f"{len(ready)} of {len(rows)} are ready; not yet: {late}", f"kubectl -n {release.namespace} get pods -l app.kubernetes.io/instance={release.name}")  # fmt: skip


def _stage(release: Release, service: object) -> str:
    if not release.clusters:
        return "the operator makes its cluster"
    if not all(is_true(cluster, "RayClusterProvisioned") for cluster in release.clusters):
        return "its pods come up"
    found = service if isinstance(service, dict) else {}
    return "its applications start" if why_unready.applications(found) else "Ray is up, and Serve is being told what to run"  # fmt: skip


def _unread(release: Release) -> Iterator[Finding]:
    for kind, why in release.unread.items():
        yield Finding(f"unread_{kind}", kind, Level.WARNING, f"{kind} could not be read, so nothing is said of them: {why}", "Ask somebody who may read them, or take a role with get and list on them (view, and for nodes, volumes and storage classes a ClusterRole).")  # fmt: skip
