"""`consilium doctor --cluster` and `--release` against a true control plane: with and without the operator, cards, a storage class; and a release that waits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.real.control_plane import ControlPlane
from tests.real.tools import tool

from consilium.cli.app import main

CHART = Path(__file__).resolve().parents[2] / "helm" / "consilium"
CARD = CHART / "presets" / "1x-rtx-pro-6000.yaml"
SPACE = "llm"


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    with ControlPlane(tmp_path_factory.mktemp("plane"), operator=False) as made:
        for name in (SPACE, "kuberay-system"):
            made.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        yield made


@pytest.fixture
def doctor(plane, monkeypatch, capsys):
    """Return id -> finding, as programs read them."""

    def look(*words, config=plane.kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(config))
        capsys.readouterr()
        code = main(["doctor", "--output", "json", "-n", SPACE, *words])
        said = json.loads(capsys.readouterr().out)
        assert (code == 0) is said["healthy"]
        return {one["id"]: one for one in said["findings"]}

    return look


def deployment(name, space, image, **labels):
    chosen = {"app.kubernetes.io/name": name, **labels}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": space},
        "spec": {"replicas": 1, "selector": {"matchLabels": chosen}, "template": {"metadata": {"labels": chosen}, "spec": {"containers": [{"name": "c", "image": image}]}}},
    }  # fmt: skip


def storage_class():
    return {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
    }  # fmt: skip


def available(plane, space, name):
    return plane.api("GET", f"/apis/apps/v1/namespaces/{space}/deployments/{name}")["status"].get("availableReplicas")  # fmt: skip


def test_from_an_empty_cluster_to_a_release_that_waits_for_its_card(plane, doctor, tmp_path):
    # nothing is there: each thing that is missing is a finding of its own
    found = doctor("--cluster", "-f", str(CARD))
    assert found["kubernetes_version"]["level"] == "ok"
    assert found["kubernetes_version"]["sentence"] == "v1.35.4"
    for id_ in ("operator", "nodes", "dns", "storage_class", "device_plugin", "places"):
        assert found[id_]["level"] == "failure", found[id_]
        assert found[id_]["way_out"]

    # all is there but the card
    plane.add_node("box", cpus=16, memory="64Gi")
    plane.run_operator()
    plane.create(storage_class())
    plane.create(
        deployment("kuberay-operator", "kuberay-system", "quay.io/kuberay/operator:v1.6.2")
    )
    plane.create(deployment("coredns", "kube-system", "coredns:1", **{"k8s-app": "kube-dns"}))
    for space, name in (("kuberay-system", "kuberay-operator"), ("kube-system", "coredns")):
        plane.until(lambda space=space, name=name: available(plane, space, name))
    found = doctor("--cluster")
    failures = [one for one in found.values() if one["level"] == "failure"]
    assert not failures
    assert found["operator"]["sentence"] == "kuberay-system/kuberay-operator v1.6.2"
    assert found["operator_reach"]["level"] == "ok"
    found = doctor("--cluster", "-f", str(CARD))
    assert found["device_plugin"]["level"] == "failure"
    assert "no node offers nvidia.com/gpu" in found["device_plugin"]["sentence"]

    # and the release that is installed all the same says what it waits for
    for number in range(3):
        plane.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"disk{number}"}, "spec": {"capacity": {"storage": "300Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local-path", "hostPath": {"path": f"/disk{number}"}}})  # fmt: skip
    helm = subprocess.run(
        [tool("helm"), "install", "mind", str(CHART), "-f", str(CARD), "-n", SPACE, "--kubeconfig", str(plane.kubeconfig)],
        capture_output=True, text=True, timeout=400, check=False, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert helm.returncode == 0, helm.stderr
    plane.until(lambda: "no_card_offered" in doctor("--release", "mind"))
    said = doctor("--release", "mind")["no_card_offered"]
    assert "nvidia.com/gpu: 1" in said["sentence"]
    assert "install.sh" in said["way_out"]

    # somebody who may read this namespace only hears the same, and what could not be read
    narrow = narrow_config(plane, tmp_path)
    found = doctor("--release", "mind", config=narrow)
    assert {"no_card_left", "unread_nodes"} <= found.keys()
    assert "403" in found["unread_nodes"]["sentence"]

    # a card comes: the doctor of the cluster is content, and of the release nothing stands in the way
    plane.add_node("cards", cpus=32, memory="128Gi", gpus=1)
    plane.until(lambda: "no_card_offered" not in doctor("--release", "mind"))
    plane.until(lambda: "not_ready_yet" in doctor("--release", "mind"))
    assert "release_unknown" in doctor("--release", "mnid")


def narrow_config(plane, folder):
    """Return a kubeconfig of an account that may only look at its namespace, with the server's certificate looked at."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": SPACE}}  # fmt: skip
    plane.create(account)
    plane.api("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}/roles", {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]})  # fmt: skip
    plane.api("POST", f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SPACE}/rolebindings", {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": SPACE}],
    })  # fmt: skip
    lent = plane.api("POST", f"/api/v1/namespaces/{SPACE}/serviceaccounts/reader/token", {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})  # fmt: skip
    file = folder / "narrow"
    authority = plane.folder / "pki" / "apiserver.crt"
    file.write_text(yaml.safe_dump({
        "clusters": [{"name": "c", "cluster": {"server": plane.url, "certificate-authority": str(authority)}}],
        "users": [{"name": "u", "user": {"token": lent["status"]["token"]}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x",
    }))  # fmt: skip
    return file
