"""What Ray is told in each pod: how long it waits for engines to move, and how much memory its object store takes."""

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.test_presets import amount
from tests.unit.chart.told_in_pods import environment, groups, own_container

LEAST_STORE = 75 * 2**20
"""Ray refuses to start with less."""
APART = {"gateway": {"worker": ""}}


@pytest.mark.parametrize(
    ("preset", "values", "kind", "seconds"),
    [
        ("cpu", {}, "head", "0"),
        ("cpu", {}, "worker", "0"),
        ("cpu", APART, "worker", "30"),
        ("two-boxes", {}, "worker", "30"),
        ("two-boxes", {}, "head", "0"),
    ],
)
def test_ray_waits_for_engines_to_move_only_where_they_can(preset, values, kind, seconds):
    """A pod that is alone has nowhere to move them, and its gateway has waited for what asks them: half a minute more would be half a minute without answers."""
    render = rendered.preset(preset, values)
    (pod,) = [
        one
        for one in rendered.pods(render)
        if one.metadata["labels"]["app.kubernetes.io/component"] == kind
    ]
    told = environment(render, own_container(pod))
    assert told["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == seconds


@pytest.mark.parametrize("values", [{}, APART])
def test_rays_object_store_fits_into_the_shared_memory(values):
    """Unsaid it is a third of the pod's memory, does not fit, and lies on the disk."""
    render = rendered.preset("cpu", values)
    for group in [render.rayservice["rayClusterConfig"]["headGroupSpec"], *groups(render)]:
        store = int(group["rayStartParams"]["object-store-memory"])
        volumes = group["template"]["spec"]["volumes"]
        (shared,) = [row["emptyDir"] for row in volumes if row["name"] == "shared-mem"]
        assert LEAST_STORE <= store <= amount(shared["sizeLimit"]) / 2
