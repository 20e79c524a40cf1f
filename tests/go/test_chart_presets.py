"""Every preset in a true control plane: what it installs is taken without a warning, runs on the machines it is for, and on nothing smaller."""

import time
from collections import Counter

import pytest
from tests.go.kube import (
    SCHEDULED_S,
    STORAGE,
    Space,
    cards_of,
    is_running,
    told,
    waits_because,
    words_of,
)
from tests.unit.chart.rendered import EXPECTED, PRESETS

CARD = "nvidia.com/gpu"
STAYS = 8
"""Looks in a row, a fifth of a second apart, at which a machine lends what it was told to."""


def machines(plane, row, short):
    """Add the machines that suffice for a preset, and wait until they are ready: until then KWOK writes what they lend.

    short  a machine that lends one card too few from the start: a late word of KWOK's about it takes nothing back
    """
    for wanted in row["nodes"]:
        node = {key: value for key, value in wanted.items() if key != "card"}
        if node["name"] == short:
            node["gpus"] -= 1
        if wanted["gpus"]:  # as NVIDIA's discovery says it
            node["labels"] = {"nvidia.com/gpu.present": "true", **node.get("labels", {})}
        plane.add_node(
            node.pop("name"), taints=[taint(text) for text in node.pop("taints", ())], **node
        )
    plane.until(lambda: all(map(is_ready, plane.list("/api/v1/nodes"))))


def is_ready(node):
    return any(
        c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ())
    )


def taint(text):
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


def lend(plane, node, cards):
    """Change how many cards a machine has, and see that it stays so: a late word of KWOK's about a new machine says what it lent before."""
    lent = {CARD: str(cards)}
    kept = 0
    while kept < STAYS:
        found = plane.api("GET", f"/api/v1/nodes/{node}")["status"]
        if all(found[kind].get(CARD) == str(cards) for kind in ("capacity", "allocatable")):
            kept += 1
            time.sleep(0.2)
            continue
        kept = 0
        plane.api(
            "PATCH", f"/api/v1/nodes/{node}/status", {"status": {"capacity": lent, "allocatable": lent}},
            content_type="application/merge-patch+json",
        )  # fmt: skip


@pytest.fixture
def space(plane, preset):
    """A namespace for the preset. Afterwards the release is gone, the machines too, and what lies outside of a namespace."""
    made = Space(plane, f"preset-{preset}", EXPECTED[preset]["admitted"])
    yield made
    made.helm("uninstall", "mind", "--ignore-not-found")
    plane.until(lambda: not made.pods())
    for plural in ("nodes", "persistentvolumes"):
        for found in plane.list(f"/api/v1/{plural}"):
            plane.api("DELETE", f"/api/v1/{plural}/{found['metadata']['name']}", ok=False)


def only_waiting(space, wanted, why):
    """Wait until all pods are there, and those that do not run wait for this reason. Return the latter."""

    def found():
        pods = space.pods()
        rest = [pod for pod in pods if not is_running(pod)]
        return (
            rest if len(pods) == wanted and all(why in waits_because(pod) for pod in rest) else None
        )

    try:
        return space.plane.until(found, SCHEDULED_S)
    except AssertionError:
        raise AssertionError(
            f"no pod waits, or not for {why!r}: {[told(pod) for pod in space.pods()]}"
        ) from None


def evict_cards(space, node):
    """Let the pods with cards on a machine look for a place again."""
    for pod in space.pods():
        if cards_of(pod) and pod["spec"]["nodeName"] == node:
            space.delete("pods", pod["metadata"]["name"])


def put_needs(plane, space, row):
    """Make what must be there first."""
    needs = row.get("needs", {})
    if name := needs.get("runtimeClass"):
        kind = {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": name},
            "handler": name,
        }
        plane.api("POST", "/apis/node.k8s.io/v1/runtimeclasses", kind, ok=False)
    if name := needs.get("storageClass"):
        plane.api(
            "POST",
            "/apis/storage.k8s.io/v1/storageclasses",
            {**STORAGE, "metadata": {"name": name}},
            ok=False,
        )
    for name in needs.get("secrets", ()):
        plane.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": space.name}})  # fmt: skip
    for name in needs.get("claims", ()):
        spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        plane.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": space.name}, "spec": spec})  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_on_the_machines_it_is_for_and_on_nothing_smaller(
    plane, space, chart, preset
):
    row = EXPECTED[preset]
    assert row["admitted"] == "restricted" or row.get("because")
    put_needs(plane, space, row)
    lent = [(node["name"], node["gpus"]) for node in row["nodes"] if node.get("gpus")]
    machines(plane, row, lent[0][0] if lent else "")
    wanted = sum(row["pods"].values())
    for node, cards in lent[:1]:
        lend(plane, node, cards - 1)
    said = space.helm("install", "mind", str(chart), *words_of(preset))
    assert "doctor --release mind" in said
    for number, (node, cards) in enumerate(lent):
        if number:
            lend(plane, node, cards - 1)
            evict_cards(space, node)
        waiting = only_waiting(space, wanted, f"Insufficient {CARD}")
        assert all(cards_of(pod) for pod in waiting), [told(pod) for pod in waiting]
        lend(plane, node, cards)
        space.running(wanted)
    running = space.running(wanted)
    kinds = Counter(pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in running)
    assert kinds == {kind: count for kind, count in row["pods"].items() if count}
    assert sum(map(cards_of, running)) == row["cards"]
    plane.until(lambda: all(claim["status"]["phase"] == "Bound" for claim in space.list("persistentvolumeclaims")))  # fmt: skip
    plane.until(lambda: all(job["status"].get("succeeded") for job in space.list("jobs", "apis/batch/v1")))  # fmt: skip
