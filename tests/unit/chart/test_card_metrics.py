"""The exporter of the cards' figures: there where cards are, without a card and without a right that it does not need, and nowhere else."""

import pytest
from helm_python import HelmError
from tests.unit.chart import rendered
from tests.unit.chart.reach import Place, network, places
from tests.unit.chart.rendered import EXPECTED, PRESETS
from tests.unit.chart.told_in_pods import config_file, environment, own_container

from consilium.gpu_metrics import app
from consilium.gpu_metrics.config import View
from consilium.kernel.config import load

WITH_CARDS = [name for name in PRESETS if EXPECTED[name]["cards"]]
NAME = "gpu_metrics"
SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"


def exporter(name="1x3090", **values):
    render = rendered.preset(name, values)
    return render, rendered.pod(render, NAME)


def metrics(**values):
    return {"gpu": {"metrics": values}}


def terms(pod):
    return pod.spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_it_is_where_cards_are_and_nowhere_else(name):
    found = rendered.of_kind(rendered.preset(name), "DaemonSet")
    assert [one["metadata"]["name"] for one in found] == ["home-consilium-gpu-metrics"] * (name in WITH_CARDS)  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [metrics(enabled=False), {"gpu": {"resourceName": "amd.com/gpu"}}],
    ids=["off", "cards of others"],
)
def test_it_can_be_left_out_and_other_cards_have_none(values):
    render = rendered.preset("1x3090", values)
    assert "gpu-metrics" not in render.text
    assert "NVIDIA's discovery" not in render.notes


@pytest.mark.parametrize("name", WITH_CARDS)
def test_it_takes_no_card_and_runs_by_the_runtime_of_pods_with_cards(name):
    render, pod = exporter(name)
    assert rendered.cards_of(pod) == 0
    workers = [one for one in rendered.pods(render) if one.kind == "worker"]
    assert {one.spec.get("runtimeClassName") for one in workers} == {pod.spec.get("runtimeClassName")}  # fmt: skip
    borne = [row for one in workers for row in one.spec["tolerations"]]
    assert all(row in pod.spec["tolerations"] for row in borne)
    told = environment(render, own_container(pod))
    assert told["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert told["NVIDIA_DRIVER_CAPABILITIES"] == "utility"


def test_it_has_no_right_that_it_does_not_need():
    render, pod = exporter()
    assert not any("hostPath" in volume for volume in pod.spec["volumes"])
    assert not pod.spec["automountServiceAccountToken"]
    assert pod.spec["securityContext"]["runAsNonRoot"]
    told = environment(render, own_container(pod))
    assert told.keys().isdisjoint({"CONSILIUM_REDIS__URL", "CONSILIUM_SECRET", "CONSILIUM_ADMIN_KEY", "HF_TOKEN"})  # fmt: skip
    net, here = network(render), places(render)
    for port in (6379, 8000, 8080, 9000):
        for other in ("head", "worker", "redis"):
            assert not net.allows(here[NAME], here[other], port)
    assert not net.allows(here[NAME], Place("internet", address="93.184.216.34"), 443)
    watch = Place("p", {}, "monitoring", {"kubernetes.io/metadata.name": "monitoring"})
    for who in (watch, here["worker"]):
        assert net.allows(who, here[NAME], 9400)
        assert not net.allows(who, here[NAME], 9000)


def test_nodes_of_groups_with_cards_are_its_nodes_too():
    _, pod = exporter("mixed")
    named = [term["matchExpressions"] for term in terms(pod)]
    for pool in ("large", "small"):
        assert [{"key": "consilium/pool", "operator": "In", "values": [pool]}] in named


def test_a_group_on_cores_names_none():
    group = rendered.file_of("1x3090")["workers"][0]
    cores = rendered.WORKERS | {"name": "cores", "nodeSelector": {"box": "small"}, "tolerations": [{"key": "cores"}]}  # fmt: skip
    _, pod = exporter(workers=[group, cores])
    assert "small" not in str(terms(pod))
    assert {"key": "cores"} not in pod.spec["tolerations"]


def test_labels_of_ones_own_take_the_place_of_those():
    render, pod = exporter(**metrics(nodeSelector={"cards": "yes"}))
    assert pod.spec["nodeSelector"] == {"cards": "yes"}
    assert "affinity" not in pod.spec
    assert "kubectl label node NODE cards=yes" in render.notes


def test_its_prices_are_in_the_configuration_and_start_it_anew(tmp_path):
    said = {"config": {"gpu_metrics": {"price_per_kwh": 0.31, "currency": "CHF"}}}
    render, pod = exporter(**said)
    told = environment(render, own_container(pod))
    view = load(View, path=config_file(render, tmp_path), env=told).value
    assert (view.gpu_metrics.price_per_kwh, view.gpu_metrics.currency) == (0.31, "CHF")
    assert view.gpu_metrics.pod_resources == ""
    assert view.services[NAME].metrics == "http://home-consilium-gpu-metrics:9400"
    mark = pod.metadata["annotations"]["checksum/config"]
    assert mark != exporter()[1].metadata["annotations"]["checksum/config"]
    assert own_container(pod)["command"][2] == app.__name__


@pytest.mark.parametrize(
    "config", [{"price_per_kwh": "dear"}, {"price_per_kwh": -1}, {"currency": "euros"}]
)
def test_a_price_that_is_none_is_refused(config):
    with pytest.raises(HelmError, match=next(iter(config))):
        rendered.preset("1x3090", {"config": {"gpu_metrics": config}})


@pytest.mark.parametrize(("name", "root"), [("k3s", "/var/lib/kubelet"), ("microk8s", "/var/snap/microk8s/common/var/lib/kubelet")])  # fmt: skip
def test_it_asks_the_kubelet_where_its_owner_wants_that(tmp_path, name, root):
    render, pod = exporter(name, **metrics(podResources=True))
    told = environment(render, own_container(pod))
    view = load(View, path=config_file(render, tmp_path), env=told).value
    assert view.gpu_metrics.pod_resources == SOCKET
    (mount,) = (one for one in own_container(pod)["volumeMounts"] if one["name"] == "pod-resources")
    assert SOCKET.startswith(f"{mount['mountPath']}/")
    assert mount["readOnly"]
    (volume,) = (one for one in pod.spec["volumes"] if one["name"] == "pod-resources")
    assert volume["hostPath"]["path"] == f"{root}/pod-resources"
    assert own_container(pod)["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_what_services_says_of_it_goes_before():
    over = {"module": "of.mine", "env": {"A": "b"}, "nodeSelector": {"box": "one"}}
    render, pod = exporter(services={NAME: over})
    assert own_container(pod)["command"][2] == "of.mine"
    assert environment(render, own_container(pod))["A"] == "b"
    assert pod.spec["nodeSelector"] == {"box": "one"}


def test_more_than_its_limit_is_refused_by_its_key():
    much = {"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
    with pytest.raises(HelmError, match=r"gpu\.metrics\.resources\.requests\.cpu"):
        exporter(**metrics(resources=much))
