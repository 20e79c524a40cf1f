"""Volumes that a deleted claim has left: phase Released. Kubernetes gives them to nobody, a new claim of the same name least of all.

Rules: objects in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from consilium.cli.cluster.objects import Object, name_of, status_of
from consilium.cli.cluster.release import Release
from consilium.kernel.doctor import Finding, Level

_FREE: Final = json.dumps([{"op": "remove", "path": "/spec/claimRef/uid"}])
"""A volume without the number of its claim is kept for the next claim of that name."""
NOBODYS: Final = "a volume that outlives its claim is given to nobody until somebody says so"


def findings(release: Release) -> Iterator[Finding]:
    """Yield what is to be known of volumes that claims of a release have left."""
    claims = {name_of(one): one for one in release.claims}
    for volume in left_behind(release.volumes, release.namespace):
        name, wanted = name_of(volume), claim_of(volume)
        claim = claims.get(wanted)
        if claim is None:
            if wanted.removeprefix("data-").startswith(f"{release.name}-"):
                yield Finding("volume_left", "volumes", Level.NOTE, f"the volume {name} ({_size(volume)}) is Released: it holds what the deleted claim {wanted} had, and {NOBODYS}", f"{again(name)} gives it to the next claim of that name. {forget(name)}")  # fmt: skip
        elif status_of(claim).get("phase") == "Pending":
            yield Finding("volume_released", "volumes", Level.FAILURE, f"the claim {wanted} waits, and the volume {name} ({_size(volume)}) of an earlier claim of that name is Released: {NOBODYS}", f"With what is on it: {again(name)}. Without: {forget(name)}")  # fmt: skip
        else:
            other = (claim.get("spec") or {}).get("volumeName", "another one")
            yield Finding("volume_left", "volumes", Level.NOTE, f"the claim {wanted} has the volume {other} now, and {name} ({_size(volume)}) of an earlier claim of that name is Released with what was on it", f"To have it back: delete the claim while its pods are scaled down, then {again(name)} and helm upgrade. {forget(name)}")  # fmt: skip


def left_behind(volumes: Iterable[Object], space: str) -> Iterator[Object]:
    """Yield the volumes that are Released from claims of a namespace."""
    for volume in volumes:
        is_left = status_of(volume).get("phase") == "Released"
        if is_left and _reference(volume).get("namespace") == space:
            yield volume


def claim_of(volume: Object) -> str:
    """Return the name of the claim that a volume belongs to."""
    return str(_reference(volume).get("name", ""))


def again(name: str) -> str:
    """Return the command that gives a volume to the next claim of the same name."""
    return f"kubectl patch pv {name} --type=json -p '{_FREE}'"


def forget(name: str) -> str:
    """Return the command that forgets a volume, and what it leaves."""
    return f"kubectl delete pv {name} forgets it; where its reclaim policy is Retain, what is on the disk stays there."


def _reference(volume: Object) -> dict[str, Any]:
    return (volume.get("spec") or {}).get("claimRef") or {}


def _size(volume: Object) -> str:
    return str(((volume.get("spec") or {}).get("capacity") or {}).get("storage", "of unknown size"))
