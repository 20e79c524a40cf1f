"""Kubernetes objects as JSON: names, labels, conditions, quantities, times.

Does not know what they mean for Consilium.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

Object = Mapping[str, Any]

_FACTORS: Final = {
    "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50,
}  # fmt: skip
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"


def quantity(text: object) -> float:
    """Return a quantity such as 500m, 16Gi or 4 as a number; cores, bytes or pieces. Raises ValueError."""
    word = str(text).strip()
    for unit in sorted(_FACTORS, key=len, reverse=True):
        if word.endswith(unit):
            return float(word.removesuffix(unit)) * _FACTORS[unit]
    return float(word)


def name_of(one: Object) -> str:
    """Return its name."""
    return str(one.get("metadata", {}).get("name", ""))


def labels_of(one: Object) -> Mapping[str, str]:
    """Return its labels."""
    return one.get("metadata", {}).get("labels") or {}


def status_of(one: Object) -> Object:
    """Return its status."""
    return one.get("status") or {}


def component_of(one: Object) -> str:
    """Return which part of the chart it belongs to."""
    return labels_of(one).get(COMPONENT, "")


def condition(one: Object, kind: str) -> Object:
    """Return a condition of its status; empty where it has none of that type."""
    rows = status_of(one).get("conditions") or ()
    return next((row for row in rows if row.get("type") == kind), {})


def is_true(one: Object, kind: str) -> bool:
    """Return whether a condition is true."""
    return condition(one, kind).get("status") == "True"


def seconds(text: object) -> float:
    """Return a time of the API in Unix seconds, 0 where it says none."""
    if not text:
        return 0.0
    return datetime.fromisoformat(str(text)).timestamp()


def made_at(one: Object) -> float:
    """Return when it was made, in Unix seconds."""
    return seconds(one.get("metadata", {}).get("creationTimestamp"))


@dataclass(frozen=True, slots=True)
class Container:
    """A container of a pod: what was asked, and how it fares.

    is_init  it runs before the others
    """

    pod: Object
    name: str
    spec: Object
    status: Object
    is_init: bool

    @property
    def waiting(self) -> Object:
        """Why it waits, or empty."""
        return (self.status.get("state") or {}).get("waiting") or {}

    @property
    def is_running(self) -> bool:
        """Whether it runs now."""
        return "running" in (self.status.get("state") or {})

    @property
    def ended(self) -> Object:
        """How it ended, now or the last time; empty if it never did."""
        for state in ("state", "lastState"):
            if found := (self.status.get(state) or {}).get("terminated"):
                return dict(found)
        return {}

    @property
    def failed(self) -> bool:
        """Whether it ended with an error, now or the last time."""
        return bool(self.ended) and self.ended.get("exitCode", 0) != 0


def containers(pod: Object) -> Iterator[Container]:
    """Yield the containers of a pod, those that run first ahead."""
    for key, is_init in (("initContainers", True), ("containers", False)):
        rows = status_of(pod).get("initContainerStatuses" if is_init else "containerStatuses") or ()
        known = {row["name"]: row for row in rows}
        for spec in (pod.get("spec") or {}).get(key) or ():
            yield Container(pod, spec["name"], spec, known.get(spec["name"], {}), is_init)


def requested(pod: Object) -> dict[str, float]:
    """Return what a pod asks the scheduler for: the sum of its containers, or the largest that runs before them."""
    sums: dict[str, float] = {}
    for one in (pod.get("spec") or {}).get("containers") or ():
        for what, much in ((one.get("resources") or {}).get("requests") or {}).items():
            sums[what] = sums.get(what, 0.0) + quantity(much)
    for one in (pod.get("spec") or {}).get("initContainers") or ():
        for what, much in ((one.get("resources") or {}).get("requests") or {}).items():
            sums[what] = max(sums.get(what, 0.0), quantity(much))
    return sums


def is_over(pod: Object) -> bool:
    """Return whether a pod holds nothing any more."""
    return status_of(pod).get("phase") in ("Succeeded", "Failed")
