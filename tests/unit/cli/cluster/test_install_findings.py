"""Each thing that would keep an installation from running, once there and once not; and the values as the chart has them."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from consilium.cli.cluster.install_findings import ROWS, findings
from consilium.cli.cluster.inventory import Inventory, version_of
from consilium.cli.cluster.wanted import DEFAULTS, PAGE, of_files, of_values
from consilium.kernel.doctor import Level
from consilium.kernel.errors import ConsiliumError

CHART = Path(__file__).resolve().parents[4] / "helm" / "consilium"
ONE_CARD = of_files([CHART / "presets" / "1x-rtx-pro-6000.yaml", CHART / "presets" / "k3s.yaml"])
PLAIN = of_values({})


def node(name, *, cards=0, cpu="32", memory="128Gi", disk="900Gi", labels=None, taints=(), **info):
    lends = {"cpu": cpu, "memory": memory, "ephemeral-storage": disk}
    if cards:
        lends["nvidia.com/gpu"] = str(cards)
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": {"taints": list(taints)},
        "status": {
            "allocatable": lends,
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.35.4+k3s1", "architecture": "amd64", **info},
        },
    }


def pod(name, space, *, on="box", cards=0, labels=None, ready=True):
    requests = {"cpu": "100m", "memory": "70Mi", **({"nvidia.com/gpu": str(cards)} if cards else {})}  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": space, "labels": labels or {}},
        "spec": {"nodeName": on, "containers": [{"name": "c", "resources": {"requests": requests}}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]},
    }  # fmt: skip


def deployment(image="quay.io/kuberay/operator:v1.6.2", space="kuberay-system", available=1):
    return {
        "metadata": {"name": "kuberay-operator", "namespace": space},
        "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        "status": {"availableReplicas": available},
    }


def named(name, space=None, annotations=None, **more):
    return {"metadata": {"name": name, "namespace": space, "annotations": annotations or {}, "labels": {}}, **more}  # fmt: skip


DEFAULT = {"storageclass.kubernetes.io/is-default-class": "true"}
DRIVER = {"nvidia.com/cuda.driver-version.major": "581", "nvidia.com/gpu.product": "RTX-PRO-6000"}
RAY = frozenset({"ray.io/v1 RayService", "ray.io/v1 RayCluster"})
MONITOR = frozenset({"monitoring.coreos.com/v1 PodMonitor"})
BOX = Inventory(
    "llm",
    "v1.35.4+k3s1",
    RAY,
    nodes=(node("box", cards=1, labels=DRIVER),),
    pods=(pod("coredns-1", "kube-system", labels={"k8s-app": "kube-dns"}),),
    deployments=(deployment(),),
    runtimes=(named("nvidia"),),
    classes=(named("local-path", annotations=DEFAULT),),
    ingress_classes=(named("traefik"),),
    namespaces=(
        {"metadata": {"name": "llm", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        {"metadata": {"name": "kuberay-system", "labels": {"kubernetes.io/metadata.name": "kuberay-system"}}},
    ),
)  # fmt: skip
CARDS = yaml.safe_load((CHART / "presets" / "1x-rtx-pro-6000.yaml").read_text(encoding="utf-8"))
NAMES_PODS = of_values({**CARDS, "gpu": {"metrics": {"podResources": True}}})
OWN_LABEL = of_values({**CARDS, "gpu": {"metrics": {"nodeSelector": {"cards": "yes"}}}})
MONITORED = of_values({"monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "prom"}}}})  # fmt: skip
ROUTED = of_values({"routes": {"enabled": True, "parents": [{"name": "door"}]}})
INGRESS = of_values({"ingress": {"enabled": True, "className": "nginx"}})
GATEWAY_KINDS = RAY | {f"gateway.networking.k8s.io/v1 {kind}" for kind in ("HTTPRoute", "GRPCRoute")}  # fmt: skip


OTHER_NAMES = of_values({"networkPolicy": {"egress": {"dns": {"to": [{"podSelector": {"matchLabels": {"dns": "mine"}}}]}}}})  # fmt: skip


def volume(name, space="llm", claim="mind-consilium-models", phase="Released"):
    """Return a PersistentVolume."""
    spec = {"capacity": {"storage": "64Gi"}, "claimRef": {"namespace": space, "name": claim, "uid": "1"}}  # fmt: skip
    return {"metadata": {"name": name}, "spec": spec, "status": {"phase": phase}}


def prometheus(labels, spaces=None, space="monitoring"):
    return named("prom", space, spec={"podMonitorSelector": {"matchLabels": labels}, "podMonitorNamespaceSelector": spaces})  # fmt: skip


def quota(**hard):
    return named("small", status={"hard": hard, "used": dict.fromkeys(hard, "0")})


def nodes(*rows):
    return replace(BOX, nodes=rows)


F, W, N = Level.FAILURE, Level.WARNING, Level.NOTE
FIRING = [
    # row, level, the cluster, the values, words of the sentence, words of the way out
    ("kubernetes_version", F, replace(BOX, version="v1.28.2"), PLAIN, "older than 1.30", "Upgrade"),
    ("kubernetes_version", N, replace(BOX, version="v1.39.0"), PLAIN, "newer", "--dry-run=server"),
    ("kubelet_version", W, nodes(node("old", kubeletVersion="v1.31.0")), PLAIN, "old v1.31.0", "Upgrade"),
    ("kubelet_version", W, nodes(node("new", kubeletVersion="v1.36.0")), PLAIN, "new v1.36.0", "Upgrade"),
    ("operator", F, replace(BOX, kinds=frozenset()), PLAIN, "no ray.io/v1 RayService", "install.sh installs 1.6.2"),
    ("operator", F, replace(BOX, deployments=()), PLAIN, "no Deployment", "install.sh"),
    ("operator", F, replace(BOX, deployments=(deployment(available=0),)), PLAIN, "not available", "describe pods"),
    ("operator", F, replace(BOX, deployments=(deployment("kuberay/operator:v1.4.2"),)), PLAIN, "v1.4.2", "install.sh"),
    ("operator", N, replace(BOX, deployments=(deployment("kuberay/operator:v1.7.0"),)), PLAIN, "1.6.2 was tried", "install.sh"),
    ("operator_reach", F, replace(BOX, deployments=(deployment(space="default"),)), PLAIN, "the operator is in default", "metadata\\.name=default"),
    ("dns", F, replace(BOX, pods=()), PLAIN, "k8s-app=kube-dns", "microk8s enable dns"),
    ("dns", F, replace(BOX, pods=(pod("c", "kube-system", labels={"k8s-app": "kube-dns"}, ready=False),)), PLAIN, "none of 1", "describe"),
    ("network_policies", W, replace(BOX, version="v1.35.4", daemonsets=(named("kube-flannel"),)), PLAIN, "flannel alone", "kube-router"),
    ("network_policies", N, replace(BOX, version="v1.35.4"), PLAIN, "cannot be told", "6379"),
    ("pod_security", N, replace(BOX, namespace="new"), PLAIN, "not there yet", "--create-namespace"),
    ("pod_security", F, BOX, NAMES_PODS, "gpu.metrics.podResources needs a folder of the node", "podResources=false"),
    ("card_figures", W, nodes(node("box", cards=1), node("cores")), ONE_CARD, "what the cards of box do", "kubectl label node box nvidia.com/gpu.present=true"),
    ("card_figures", W, BOX, OWN_LABEL, "cards of box", "label node box cards=yes"),
    ("storage_class", F, replace(BOX, classes=()), PLAIN, "no default one", "local-path-provisioner"),
    ("storage_class", F, replace(BOX, classes=(named("nfs"),)), ONE_CARD, "models.storageClass is local-path", "Name one"),
    ("released_volumes", N, replace(BOX, volumes=(volume("pv-1"), volume("pv-2", space="other"))), PLAIN, "Released in llm: pv-1 (of mind-consilium-models);", "kubectl patch pv pv-1"),
    ("dns", F, BOX, OTHER_NAMES, "no pod has the label dns=mine", "networkPolicy.egress.dns"),
    ("quota", F, replace(BOX, quotas=(quota(**{"requests.memory": "4Gi"}),)), PLAIN, "requests.memory", "edit resourcequota small"),
    ("quota", F, replace(BOX, quotas=(quota(pods="2"),)), PLAIN, "leaves 2 of pods", "another namespace"),
    ("pod_monitor", F, BOX, MONITORED, "not here", "--monitoring"),
    ("pod_monitor", W, replace(BOX, kinds=RAY | MONITOR), MONITORED, "no Prometheus", "--monitoring"),
    ("pod_monitor", F, replace(BOX, kinds=RAY | MONITOR, prometheuses=(prometheus({"release": "kps"}),)), MONITORED, "release=kps", "labels.release=kps"),
    ("pod_monitor", F, replace(BOX, kinds=RAY | MONITOR, prometheuses=(prometheus({"release": "prom"}),)), MONITORED, "does not look into llm", "podMonitorNamespaceSelector"),
    ("pod_monitor", F, replace(BOX, kinds=RAY | MONITOR, prometheuses=(prometheus({"release": "prom"}, {}, "watch"),)), MONITORED, "runs in watch", "metadata\\.name=watch"),
    ("gateway_api", F, BOX, ROUTED, "no HTTPRoute", "--gateway-api"),
    ("gateway_api", F, replace(BOX, kinds=GATEWAY_KINDS, gateways=(named("other"),)), ROUTED, "door", "kubectl get gateways"),
    ("ingress_class", F, BOX, INGRESS, "'nginx'", "traefik"),
    ("nodes", F, nodes({**node("box"), "spec": {"unschedulable": True}}), PLAIN, "no node is ready", "kubectl get nodes"),
    ("nodes", W, nodes(node("box"), {**node("b"), "spec": {"unschedulable": True}}), PLAIN, "b not ready", "uncordon"),
    ("architecture", W, nodes(node("pi", architecture="arm64")), PLAIN, "arm64", "amd64"),
    ("device_plugin", F, nodes(node("box")), ONE_CARD, "no device plugin runs", "install.sh"),
    ("device_plugin", F, replace(nodes(node("box")), daemonsets=(named("nvidia-device-plugin", "gpu"),)), ONE_CARD, "finds no card", "kubectl -n gpu logs ds/nvidia-device-plugin"),
    ("device_plugin", F, nodes(node("box", cards=1)), of_values({"gpu": {"resourceName": "nvidia.com/gpu.shared"}, "workers": [{"name": "m", "image": "gpu", "replicas": 1, "gpus": 1, "resources": {"requests": {"cpu": "4"}}}]}), "they offer nvidia.com/gpu", "gpu.resourceName"),
    ("runtime_class", F, replace(BOX, runtimes=()), ONE_CARD, "no such RuntimeClass", "nvidia-container-toolkit"),
    ("runtime_class", W, BOX, of_files([CHART / "presets" / "1x3090.yaml"]), "gpu.runtimeClassName is empty", "gpu.runtimeClassName=nvidia"),
    ("driver", F, nodes(node("box", cards=1, labels={"nvidia.com/cuda.driver-version.major": "550"})), ONE_CARD, "box 550", "Update"),
    ("driver", N, nodes(node("box", cards=1)), ONE_CARD, "no node says", "nvidia-smi"),
    ("cards_free", F, replace(BOX, pods=(*BOX.pods, pod("train", "lab", cards=1))), ONE_CARD, "0 of nvidia.com/gpu are free", "lab/train (1)"),
    ("places", F, nodes(node("box", cards=1, memory="8Gi")), ONE_CARD, "main-0 asks for", "workers[name=main].resources.requests"),
    ("places", F, nodes(node("box", taints=[{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}])), PLAIN, "labels or taints", "tolerations"),
    ("memory", W, nodes(node("box", memory="4Gi")), PLAIN, "10.0 GiB", "limits.memory"),
    ("memory", F, BOX, of_values({"workers": [{"name": "m", "image": "cpu", "replicas": 1, "sharedMemory": "8Gi", "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi"}}}]}), "comes out of its memory", "Raise"),
    ("memory", W, nodes(node("box", cards=2)), of_values({"workers": [{"name": "m", "image": "gpu", "replicas": 1, "gpus": 2, "resources": {"requests": {"cpu": "4"}}}]}), "2 cards", "sharedMemory: 8Gi"),
    ("disk", F, nodes(node("box", cards=1, disk="50G", labels=DRIVER)), ONE_CARD, "box 50 GB", "crictl rmi"),
    ("disk", W, nodes(node("box", disk="10G")), PLAIN, "20 GB", "crictl rmi"),
]  # fmt: skip


@pytest.mark.parametrize("case", FIRING, ids=lambda case: case[0])
def test_what_would_go_wrong_is_told_with_the_way_out(case):
    id_, level, has, asks, said, way_out = case
    found = {one.id: one for one in findings(has, asks)}
    assert found[id_].level is level, found[id_]
    assert said in found[id_].sentence, found[id_].sentence
    assert way_out in found[id_].way_out, found[id_].way_out


def test_every_row_is_seen_to_fire():
    assert {row.id for row in ROWS} == {id_ for id_, *_ in FIRING}


@pytest.mark.parametrize("asks", [PLAIN, ONE_CARD])
def test_a_box_that_has_all_says_so(asks):
    bad = [one for one in findings(BOX, asks) if one.level is not Level.OK]
    assert not bad
    assert {one.id for one in findings(BOX, asks)} >= {"operator", "dns", "storage_class", "places"}


def test_a_check_that_is_wrong_is_no_finding():
    assert not [one for one in findings(BOX, ONE_CARD) if "check itself failed" in one.sentence]


def test_cards_are_asked_of_gpu_values_only():
    ids = {one.id for one in findings(BOX, PLAIN)}
    assert not ids & {"device_plugin", "runtime_class", "driver", "cards_free"}


def test_what_may_not_be_read_is_told_and_judged_by_nobody():
    seen = replace(BOX, nodes=(), unread={"nodes": "403"})
    found = {one.id: one for one in findings(seen, ONE_CARD)}
    assert found["unread_nodes"].level is Level.WARNING
    assert not found.keys() & {"nodes", "places", "cards_free", "disk"}


def test_the_defaults_are_the_charts():
    chart = yaml.safe_load((CHART / "values.yaml").read_text())

    def held(ours, theirs, path):
        for key, value in ours.items():
            if isinstance(value, dict):
                held(value, theirs[key], f"{path}.{key}")
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                for mine, other in zip(value, theirs[key], strict=True):
                    held(mine, other, f"{path}.{key}[]")
            else:
                assert theirs[key] == value, f"{path}.{key}"

    held(copy.deepcopy(DEFAULTS), chart, "")


def test_the_page_asks_for_what_the_chart_gives_it():
    text = (CHART / "templates" / "_helpers.tpl").read_text()
    assert "requests: {cpu: 10m, memory: 64Mi" in text
    assert PAGE == {"cpu": 0.01, "memory": 64 * 2**20}


EXPECTED = yaml.safe_load((CHART / "presets" / "expected.yaml").read_text())


def preset(name):
    """Return what a preset asks for, and the machines that suffice for it."""
    said = EXPECTED[name]
    files = [*(said.get("with") or ()), name]
    asks = of_files([CHART / "presets" / f"{file.removesuffix('.yaml')}.yaml" for file in files])
    machines = [
        node(
            one["name"],
            cards=one["gpus"],
            cpu=str(one["cpus"]),
            memory=one["memory"],
            labels=one.get("labels"),
            taints=[taint(text) for text in one.get("taints") or ()],
        )
        for one in said["nodes"]
    ]
    return asks, machines


def taint(text):
    pair, _, effect = text.partition(":")
    key, _, value = pair.partition("=")
    return {"key": key, "value": value, "effect": effect}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_preset_finds_its_places_on_the_machines_that_it_is_for(name):
    asks, machines = preset(name)
    assert asks.cards == EXPECTED[name]["cards"]
    said = EXPECTED[name]["pods"]  # the exporter goes wherever cards are, and looks for no place
    assert len(asks.pods) == sum(said.values()) - said.get("gpu_metrics", 0)
    found = {one.id: one for one in findings(nodes(*machines), asks)}
    assert found["places"].level is Level.OK, found["places"].sentence


@pytest.mark.parametrize("name", [name for name in EXPECTED if EXPECTED[name]["cards"]])
def test_and_not_with_one_card_fewer(name):
    asks, machines = preset(name)
    least = next(one for one in machines if "nvidia.com/gpu" in one["status"]["allocatable"])
    lends = least["status"]["allocatable"]
    lends["nvidia.com/gpu"] = str(int(lends["nvidia.com/gpu"]) - 1)
    found = {one.id: one for one in findings(nodes(*machines), asks)}
    assert found["places"].level is Level.FAILURE
    assert found["cards_free"].level is Level.FAILURE


def test_values_that_are_none_are_refused(tmp_path):
    (tmp_path / "v.yaml").write_text("workers: [{name: m, replicas: 1, resources: {requests: {cpu: lots}}}]")  # fmt: skip
    with pytest.raises(ConsiliumError) as caught:
        of_files([tmp_path / "v.yaml"])
    assert caught.value.code == "config_invalid"


@pytest.mark.parametrize(("text", "numbers"), [("v1.35.4+k3s1", (1, 35, 4)), ("1.6", (1, 6, 0)), ("nightly", (0, 0, 0))])  # fmt: skip
def test_versions(text, numbers):
    assert version_of(text) == numbers
