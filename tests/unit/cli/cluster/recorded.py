"""Releases as `kubectl get -o json` shows them: files of releases/, as the rules get them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from consilium.cli.cluster.objects import seconds
from consilium.cli.cluster.release import Release

FOLDER = Path(__file__).parent / "releases"
KINDS = (
    "services",
    "clusters",
    "pods",
    "jobs",
    "sets",
    "claims",
    "events",
    "classes",
    "volumes",
    "nodes",
)


def document(name: str) -> dict[str, Any]:
    """Return a file; one with a `base` says only what differs: an object's status is replaced, the rest is laid over it, `gone` is not there."""
    said = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if "base" not in said:
        return said
    whole = document(said["base"])
    for kind in KINDS:
        rows = {one["metadata"]["name"]: one for one in whole.get(kind, [])}
        for n, one in enumerate(said.get(kind, ())):
            name = one["metadata"]["name"]
            if kind == "events":
                rows[f"{name}-{n}"] = one
            elif name in rows:
                status = one.get("status", rows[name].get("status"))
                rows[name] = {**over(rows[name], one), "status": status}
            else:
                rows[name] = one
        whole[kind] = [one for name, one in rows.items() if name not in said.get("gone", ())]
    return {**whole, **{key: said[key] for key in ("now", "logs") if key in said}}


def over(below: Any, above: Any) -> Any:
    """Return one object laid over another; None takes a key away, lists are replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return copy.deepcopy(above)
    merged = {**below, **{key: over(below.get(key), value) for key, value in above.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def release(name: str, **changed: Any) -> Release:
    """Return a recorded release."""
    said = document(name)
    logs = {tuple(key.split("/")): text for key, text in said.get("logs", {}).items()}
    rows: dict[str, Any] = {kind: tuple(said.get(kind, ())) for kind in KINDS}
    return Release(
        said["release"],
        said["namespace"],
        **{**rows, "logs": logs, "now": seconds(said["now"]), **changed},
    )
