"""What a process in a pod is told: its environment as the kubelet would make it, and consilium.yaml as it lies there."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.unit.chart.rendered import Pod, Render, of_kind

OF_THE_OWNER = "redis://:password@their-redis:6379/0"
"""What a Secret that the render does not hold gives: the only one that is read for an address is Redis'."""


def environment(render: Render, container: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a container. Keys of Secrets that the owner brings are OF_THE_OWNER."""
    made = {one["metadata"]["name"]: one["data"] for one in of_kind(render, "Secret")}
    told = {}
    for row in container.get("env", ()):
        if "value" in row:
            told[row["name"]] = row["value"]
            continue
        ref = row["valueFrom"]["secretKeyRef"]
        if ref["name"] in made:
            told[row["name"]] = base64.b64decode(made[ref["name"]][ref["key"]]).decode()
        else:
            told[row["name"]] = OF_THE_OWNER
    return told


def own_container(pod: Pod) -> dict[str, Any]:
    """Return the container with the process that the pod is for; the page of Ray's pods stands behind it."""
    return pod.spec["containers"][0]


def config_file(render: Render, folder: Path) -> Path:
    """Write the ConfigMap's files as they are mounted. Returns consilium.yaml."""
    data = render.one("ConfigMap", render.one("RayService")["metadata"]["name"])["data"]
    for name, text in data.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "consilium.yaml"


def groups(render: Render) -> list[dict[str, Any]]:
    """Return the groups of Ray's workers."""
    return render.rayservice["rayClusterConfig"]["workerGroupSpecs"]


def lent(group: Mapping[str, Any]) -> dict[str, float]:
    """Return what one pod of a group lends by names of our own. The operator puts the text into a shell's line as it is."""
    (text,) = shlex.split(group["rayStartParams"]["resources"])
    return json.loads(text)
