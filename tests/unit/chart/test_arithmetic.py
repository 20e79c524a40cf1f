"""Seconds that pods get to end, cards and nodes that engines wait for, places for gateways: reckoned from each render."""

import math

import pytest
from tests.unit.chart import rendered
from tests.unit.chart.told_in_pods import (
    config_file,
    environment,
    groups,
    lent,
    own_container,
)

from consilium.engine.config import EngineExecutor, EngineView
from consilium.gateway.app import View
from consilium.kernel.config import load
from consilium.kernel.rooms import rooms

RAY_DRAINS_S = 30
SLACK_S = 10
SETTLE_S = 5
"""Until each node knows that a pod takes no new callers; with one gateway there is no other to go to."""
DRAINS = [
    {},
    {"drainSeconds": 600},
    {"config": {"gateway": {"drain_s": 12.5}}},
    {"config": {"gateway": {"drain_s": 300}}, "drainSeconds": 0},
    {"gateway": {"worker": "", "pods": 2}},
]


def engines(render):
    return [one["args"] for one in render.serve_config["applications"] if "executor" in one["args"]]


@pytest.mark.parametrize("values", DRAINS)
def test_a_pod_ends_no_sooner_than_its_longest_answer(values, tmp_path):
    render = rendered.render(values)
    (drain_s,) = {args["drain_s"] for args in engines(render)}
    told = environment(render, own_container(rendered.pod(render, "head")))
    view = load(View, path=config_file(render, tmp_path), env=told).value
    two = values.get("gateway", {}).get("pods", 1) > 1
    for pod in rendered.pods(render):
        if not pod.owner.startswith("RayService/"):
            continue
        first = own_container(pod)
        hook = first["lifecycle"]["preStop"]["exec"]["command"]
        assert hook[:4] == ["consilium", "drain", "--local", "--limit"]
        assert float(hook[4]) >= view.gateway.drain_s
        assert hook[5] == "--settle"
        settle_s = float(hook[6])
        assert settle_s == (SETTLE_S if two and "consilium/gateway" in pod.labels else 0)
        face_s = settle_s + float(hook[4])
        ray_s = float(environment(render, first)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert ray_s <= RAY_DRAINS_S
        grace_s = pod.spec["terminationGracePeriodSeconds"]
        assert grace_s >= face_s + drain_s + ray_s + SLACK_S
    assert render.rayservice["rayClusterDeletionDelaySeconds"] >= face_s + drain_s


def test_the_hook_is_a_command_that_there_is(default):
    import argparse

    from consilium.cli import drain

    parser = argparse.ArgumentParser()
    drain.add(parser.add_subparsers(dest="command"))
    for pod in rendered.pods(default):
        hook = own_container(pod).get("lifecycle", {}).get("preStop")
        if hook is not None:
            assert parser.parse_args(hook["exec"]["command"][1:]).local


def test_a_room_has_its_time_to_settle_and_to_stop():
    for stop_s, told in ((10, {}), (5, {"stopSeconds": 5}), (120, {"stopSeconds": 120})):
        row = {"module": "tests.greeter.app"} | told
        pod = rendered.pod(rendered.render({"services": {"greeter": row}}), "greeter")
        words = own_container(pod)["command"]
        settle_s = float(words[words.index("--settle") + 1])
        assert pod.spec["terminationGracePeriodSeconds"] >= settle_s + stop_s + SLACK_S


def test_rooms_of_the_chart_have_the_time_that_they_ask_for(default):
    import yaml

    values = yaml.safe_load((rendered.CHART / "values.yaml").read_text())
    known = {room.name: room for room in rooms()}
    for name, row in (values["services"] or {}).items():
        assert row.get("stopSeconds", 10) >= known[name].stop_s


def test_engines_wait_for_what_the_workers_lend(every):
    # What a pod lends to Ray: cores where it was not told 0 of them, and its cards (engine/backends/cluster_nodes.py: `computing`).
    nodes = cards = 0
    for group in groups(every):
        params = group["rayStartParams"]
        (pod,) = (one for one in rendered.pods(every) if one.owner.endswith(f" {group['groupName']}"))  # fmt: skip
        told = int(params["num-gpus"])
        asked = sum(rendered.cards_of(pod, name) for name in card_names(pod))
        assert told == asked
        if params.get("num-cpus") != "0" or told:
            nodes += group["replicas"]
            cards += group["replicas"] * told
    for args in engines(every):
        assert (args["nodes"], args["gpus"]) == (nodes, cards)


def card_names(pod):
    limits = own_container(pod)["resources"]["limits"]
    return [name for name in limits if "/" in name]


def test_executors_take_no_more_cards_than_their_pools_have(every, tmp_path):
    told = environment(every, own_container(rendered.pod(every, "head")))
    view = load(EngineView, path=config_file(every, tmp_path), env=told).value
    shapes = [view.topology, *(one for one in view.executors.values() if isinstance(one, EngineExecutor))]  # fmt: skip
    lent_cards = sum(g["replicas"] * int(g["rayStartParams"]["num-gpus"]) for g in groups(every))
    taken = 0
    for shape in shapes:
        if shape.device == "gpu":
            copies = 1 if shape.replicas == "auto" else shape.replicas
            taken += copies * shape.tensor_parallel * shape.pipeline_parallel
        if shape.pool is not None:
            assert any(f"consilium_pool_{shape.pool}" in lent(group) for group in groups(every))
    assert taken == lent_cards


def test_every_group_of_workers_is_a_pool_by_its_name(every):
    for group in groups(every):
        if group["groupName"] != "gateway":
            assert lent(group)[f"consilium_pool_{group['groupName']}"] == 1


def places(render, tmp_path):
    """Return gateways, pods with places, and places in each."""
    told = environment(render, own_container(rendered.pod(render, "head")))
    view = load(View, path=config_file(render, tmp_path), env=told).value
    ((pods, each),) = [
        (group["replicas"], lent(group)["consilium_gateway"])
        for group in groups(render)
        if "consilium_gateway" in lent(group)
    ]
    return view.gateway.replicas, pods, each


def test_gateways_find_a_place_each(every, tmp_path):
    gateways, pods, each = places(every, tmp_path)
    assert pods * each >= gateways
    with_label = [one for one in rendered.pods(every) if one.labels.get("consilium/gateway") == "true"]  # fmt: skip
    assert sum(one.copies for one in with_label) == pods


@pytest.mark.parametrize(
    ("replicas", "pods", "apart", "refused"),
    [
        (None, 1, False, False),
        (None, 3, False, False),
        (None, 3, True, False),
        (3, 3, False, False),
        (6, 3, True, False),
        (7, 4, False, False),
        (1, 2, False, True),
        (2, 3, True, True),
        (5, 4, True, True),
    ],
)
def test_no_pod_that_takes_grpc_is_without_a_gateway(replicas, pods, apart, refused, tmp_path):
    # The Service sends callers of gRPC to any of the pods; HTTP finds a gateway from each of them.
    values = {
        "workers": [rendered.WORKERS | {"replicas": 1 if apart else pods}],
        "gateway": {"worker": "" if apart else "main", "pods": pods},
        "config": {"gateway": {} if replicas is None else {"replicas": replicas}},
    }
    if refused:
        with pytest.raises(Exception, match=r"config\.gateway\.replicas: .* a multiple of"):
            rendered.render(values)
        return
    gateways, with_place, each = places(rendered.render(values), tmp_path)
    assert with_place == pods
    assert math.ceil(gateways / each) == pods, "as few pods as could hold them are all of them"


def test_what_another_card_is_called_reaches_the_pods():
    values = rendered.values_of("1x-rtx-pro-6000") | {"gpu": {"resourceName": "nvidia.com/mig-3g.40gb"}}  # fmt: skip
    pod = rendered.pod(rendered.render(values), "worker main")
    assert rendered.cards_of(pod, "nvidia.com/mig-3g.40gb") == 1
    assert rendered.cards_of(pod) == 0
    requests = own_container(pod)["resources"]["requests"]
    assert requests["nvidia.com/mig-3g.40gb"] == "1"


@pytest.mark.parametrize(("limit", "most"), [("512Mi", 402653184), ("1.5Gi", 1207959552)])
def test_redis_refuses_to_write_before_its_pod_is_ended_for_its_memory(limit, most):
    amounts = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": limit}}  # fmt: skip
    render = rendered.render({"redis": {"resources": amounts}})
    name = f"{render.one('RayService')['metadata']['name']}-redis"
    told = render.one("ConfigMap", name)["data"]["redis.conf"].splitlines()
    assert f"maxmemory {most}" in told
    assert "maxmemory-policy noeviction" in told
