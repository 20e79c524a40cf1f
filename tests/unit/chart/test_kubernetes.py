"""Every object, as every preset makes it and with everything switched on, is one that Kubernetes knows: no key too many, none of another type.

Held against Kubernetes' own schemas of four versions (kubernetes-validate), and for kinds of operators against their CRDs (crds.py). What only a running API
server says, such as rules over two fields, stands in tests/go.
"""

import json
from functools import lru_cache

import jsonschema
import pytest
from kubernetes_validate import utils
from referencing import Registry, Resource
from tests.unit.chart import crds, rendered

VERSIONS = ("1.30", "1.32", "1.34", "1.37")
EVERYTHING = {
    "global": {"imageRegistry": "mirror.home:5000", "imagePullSecrets": ["mirror"]},
    "workers": [
        {
            "name": "main", "image": "gpu", "replicas": 2, "gpus": 2, "sharedMemory": "8Gi",
            "resources": {
                "requests": {"cpu": 4, "memory": "16Gi", "ephemeral-storage": "20Gi"},
                "limits": {"cpu": 8.5, "memory": "32Gi"},
            },
            "env": {"NCCL_P2P_DISABLE": "1"},
            "nodeSelector": {"consilium/pool": "large"},
            "tolerations": [{"key": "only", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "box", "operator": "Exists"}]}]}}},
        },
    ],
    "config": {
        "topology": {"kind": "sharded", "tensor_parallel": 2, "replicas": 2, "device": "gpu"},
        "roles": {"sage": {"frame_file": "sage.txt"}},
        "executors": {"rented": {"model": "x", "url": "https://example.org/v1", "key_env": "RENTED"}},
    },
    "configFiles": {"sage.txt": "Be wise.\n"},
    "gpu": {"runtimeClassName": "nvidia", "resourceName": "nvidia.com/gpu.shared"},
    "gateway": {
        "worker": "", "pods": 2, "affinity": {"podAntiAffinity": {}}, "nodeSelector": {"a": "b"},
        "service": {"type": "NodePort", "annotations": {"a/b": "c"}, "nodePorts": {"http": 30080, "grpc": 30090}},
    },
    "secrets": {"environmentSecret": "keys"},
    "redis": {"storage": {"storageClass": "fast"}, "nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
    "models": {"storage": "hostPath", "cache": {"enabled": True}},
    "services": {
        "greeter": {"module": "tests.greeter.app", "storage": {"size": "1Gi", "storageClass": "fast"}, "env": {"A": "b"}},
        "twice": {"module": "m", "replicas": 2, "nodeSelector": {"a": "b"}, "stopSeconds": 30},
        "gpu_metrics": {"module": "m", "kind": "DaemonSet", "podResources": True, "tolerations": [{"operator": "Exists"}]},
    },
    "extraRooms": "tests.greeter.room",
    "ingress": {"enabled": True, "host": "mind.home", "className": "nginx", "tlsSecret": "mind", "annotations": {"a/b": "c"}},
    "routes": {"enabled": True, "host": "mind.home", "parents": [{"name": "front", "namespace": "infra"}]},
    "networkPolicy": {"callers": [{"namespaceSelector": {"matchLabels": {"team": "us"}}}]},
    "monitoring": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}, "rules": {"enabled": True, "labels": {"release": "prometheus"}}, "dashboards": {"enabled": True, "annotations": {"grafana_folder": "Consilium"}}},
    "podLabels": {"team": "us"},
    "podAnnotations": {"a/b": "c"},
}  # fmt: skip
WHERE = {
    "nfs": {"storage": "nfs", "accessMode": "ReadWriteMany", "nfs": {"server": "10.0.0.1", "path": "/m"}},
    "existing": {"storage": "existing", "existingClaim": "mine"},
    "pvc": {"storage": "pvc", "storageClass": "fast"},
}  # fmt: skip
CRDS = crds.kept()


@lru_cache(maxsize=512)
def validator(kind, api_version, version):
    """Return what judges an object of a kind by one version of Kubernetes. Read once: the definitions are large."""
    found = next(one for one in reversed(utils.all_versions()) if utils.major_minor(one) == version)
    folder = f"kubernetes-json-schema/v{found}-local-strict"
    group, _, name = api_version.rpartition("/")
    short = f"{group.partition('.')[0]}-{name}" if group else name
    schema = utils.schema_contents(f"{folder}/{kind.lower()}-{short}.json", version)
    registry = Resource.from_contents(schema) @ definitions(folder, version)
    return jsonschema.Draft202012Validator(schema, registry=registry)


@lru_cache(maxsize=8)
def definitions(folder, version):
    said = utils.schema_contents(f"{folder}/_definitions.json", version)
    return Resource.from_contents(said) @ Registry()


@lru_cache(maxsize=4096)
def faults(text, version):
    """Return what is wrong with an object: place and sentence."""
    one = json.loads(text)
    judge = (
        jsonschema.Draft202012Validator(CRDS[one["kind"]])
        if one["kind"] in CRDS
        else validator(one["kind"], one["apiVersion"], version)
    )
    return [f"{one['kind']} {error.json_path}: {error.message[:300]}" for error in judge.iter_errors(one)]  # fmt: skip


def parts(render):
    """Yield the objects of a render, and the pods of Ray as pods: the CRD's own schema of a pod is that of the operator's Kubernetes."""
    for one in render.objects:
        yield json.dumps(one, sort_keys=True)
    for pod in rendered.pods(render):
        if pod.owner.startswith("RayService/"):
            metadata = {"name": "x", **pod.metadata}
            yield json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec}, sort_keys=True)  # fmt: skip


def wrong(render, version):
    return [fault for text in parts(render) for fault in faults(text, version)]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_key(every_name, version):
    assert wrong(rendered.preset(every_name), version) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("models", [None, *WHERE])
def test_with_everything_switched_on_too(models, version):
    over = {"models": WHERE[models]} if models else {}
    render = rendered.render(rendered.merged(EVERYTHING, over))
    assert wrong(render, version) == []
    assert {one["kind"] for one in render.objects} >= CRDS.keys()


def test_a_redis_of_ones_own_with_everything_else():
    redis = {"redis": {"builtin": False, "external": {"existingSecret": "mine"}}}
    assert wrong(rendered.render(rendered.merged(EVERYTHING, redis)), VERSIONS[-1]) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Service", ("spec", "port"), []),
        ("StatefulSet", ("spec", "template", "spec", "restart"), "Always"),
        ("PersistentVolumeClaim", ("spec", "resources", "requests"), "1Gi"),
        ("RayService", ("spec", "rayClusterConfig", "workerGroups"), []),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams"), []),
    ],
)
def test_a_fault_is_found(default, kind, path, value, version):
    broken = json.loads(json.dumps(rendered.of_kind(default, kind)[0]))
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (found,) = faults(json.dumps(broken), version)
    assert path[-1] in found
