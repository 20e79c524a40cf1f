"""Values that would end in a pod that never starts, a key that nobody reads or a secret in the open are refused by Helm, with the key and the way out."""

import copy

import pytest
from helm_python import HelmError
from pydantic import ValidationError
from tests.unit.chart import rendered

from consilium.cli.config_tree import ConsiliumConfig
from consilium.embedding.config import OFFLINE
from consilium.gateway.config import BUILT_IN_PROFILES

GPU = {
    "name": "main", "image": "gpu", "replicas": 1, "gpus": 1,
    "resources": {"requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"cpu": "8", "memory": "16Gi"}},
}  # fmt: skip
CPU = {**GPU, "image": "cpu", "gpus": 0}
DIGEST = "sha256:" + "0" * 63


def group(**keys):
    """Return a group of pods with a card that differs in these keys; None takes one out."""
    changed = {**copy.deepcopy(GPU), **keys}
    return {key: value for key, value in changed.items() if value is not None}


def workers(*groups, **config):
    """Return values with these groups, and an engine on cards where one has some."""
    on = "gpu" if any(one.get("gpus") for one in groups) else "cpu"
    topology = {"kind": "replicas", "replicas": 1, "device": on, **config.pop("topology", {})}
    return {"workers": list(groups), "gateway": {"worker": groups[0]["name"]}, "config": {"topology": topology, **config}}  # fmt: skip


def at(path, value):
    """Return values in which one key, dotted, has this value."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def config(path, value):
    return at(f"config.{path}", value)


def cores(limit, memory="16Gi", asked="1", wanted="1Gi"):
    return {"requests": {"cpu": asked, "memory": wanted}, "limits": {"cpu": limit, "memory": memory}}  # fmt: skip


HYBRID = {"kind": "hybrid", "replicas": 1, "device": "cpu"}
ROOM = {"module": "tests.greeter.app"}

# What is said -> words that the refusal must have: the key first.
UNKNOWN = [
    (at("workerz", []), ["workerz"]),
    (at("replicas", 2), ["replicas"]),
    (at("images.gpu.name", "x"), ["/images/gpu", "name"]),
    (at("images.engine", {}), ["/images", "engine"]),
    (at("gpu.count", 2), ["/gpu", "count"]),
    (at("head.gpus", 1), ["/head", "gpus"]),
    (at("head.resources.limit", {}), ["/head/resources", "limit"]),
    (at("head.resources.limits.nvidia.com/gpu", 1), ["/head/resources/limits", "nvidia"]),
    (workers(group(gpu=1)), ["/workers/0", "gpu"]),
    (workers(group(resources={**GPU["resources"], "claims": []})), ["/workers/0/resources", "claims"]),
    (at("gateway.replicas", 2), ["/gateway", "replicas"]),
    (at("gateway.service.nodePort", 30080), ["/gateway/service", "nodePort"]),
    (at("gateway.service.nodePorts.https", 30080), ["/gateway/service/nodePorts", "https"]),
    (at("secrets.adminKey", "x"), ["/secrets", "adminKey"]),
    (at("redis.enabled", False), ["/redis", "enabled"]),
    (at("redis.external.url", "redis://x"), ["/redis/external", "url"]),
    (at("redis.storage.class", "x"), ["/redis/storage", "class"]),
    (at("models.path", "/x"), ["/models", "path"]),
    (at("models.nfs.host", "x"), ["/models/nfs", "host"]),
    (at("models.prefetch.enable", True), ["/models/prefetch", "enable"]),
    (at("services.greeter", {**ROOM, "port": 1}), ["/services/greeter", "port"]),
    (at("services.greeter", {**ROOM, "storage": {"size": "1Gi", "mode": "x"}}), ["/services/greeter/storage", "mode"]),
    (at("ingress.tls", []), ["/ingress", "tls"]),
    (at("routes.gateway", "x"), ["/routes", "gateway"]),
    (at("networkPolicy.allow", []), ["/networkPolicy", "allow"]),
    (at("monitoring.serviceMonitor", {}), ["/monitoring", "serviceMonitor"]),
    (at("monitoring.podMonitor.label", {}), ["/monitoring/podMonitor", "label"]),
    (at("monitoring.rules.label", {}), ["/monitoring/rules", "label"]),
    (at("monitoring.dashboards.folder", "x"), ["/monitoring/dashboards", "folder"]),
    (at("tests.timeout", 5), ["/tests", "timeout"]),
    (config("modell", "demo"), ["/config", "modell"]),
    (config("topology.tp", 2), ["/config/topology", "tp"]),
    (config("engine.max_len", 1024), ["/config/engine", "max_len"]),
    (config("gateway.prot", 8000), ["/config/gateway", "prot"]),
    (config("redis.host", "x"), ["/config/redis", "host"]),
    (config("embedding.backends", "x"), ["/config/embedding", "backends"]),
    (config("roles.sage.prompt", "Be wise."), ["/config/roles/sage", "prompt"]),
    (config("profiles.brief.temprature", 1), ["/config/profiles/brief", "temprature"]),
    (config("executors.coder", {"model": "demo", "url": "http://x/v1", "tensor_parallel": 2}), ["/config/executors/coder", "tensor_parallel"]),
    (config("executors.coder", {"model": "demo", "gpus": 2}), ["/config/executors/coder", "gpus"]),
    (config("executors.coder", {"model": "demo", "engine": {"seqs": 2}}), ["/config/executors/coder/engine", "seqs"]),
    (config("state", "/tmp"), ["/config", "state"]),
]  # fmt: skip

FORM = [
    # wrong types
    (at("skipChecks", "yes"), ["/skipChecks", "boolean"]),
    (at("drainSeconds", "60"), ["/drainSeconds", "integer"]),
    (at("workers", {}), ["/workers", "array"]),
    (at("workers", []), ["/workers", "minItems"]),
    (workers(group(replicas="2")), ["/workers/0/replicas", "integer"]),
    (workers(group(env={"WORDS": 3})), ["/workers/0/env/WORDS", "string"]),
    (workers(group(resources=None)), ["/workers/0", "resources"]),
    (workers(group(resources={"requests": {"cpu": 1, "memory": "1Gi"}})), ["/workers/0/resources", "limits"]),
    (at("podLabels", {"team": True}), ["/podLabels/team", "string"]),
    (at("images.gpu.tag", 1.5), ["/images/gpu/tag", "string"]),
    (at("global.imagePullSecrets", "mine"), ["/global/imagePullSecrets", "array"]),
    (at("configFiles", {"sage.txt": 3}), ["/configFiles/sage.txt", "string"]),
    (config("engine.max_model_len", "32k"), ["/config/engine/max_model_len", "integer"]),
    (config("engine.enforce_eager", "no"), ["/config/engine/enforce_eager", "boolean"]),
    # choices
    (workers(group(image="cuda")), ["/workers/0/image", "gpu"]),
    (at("images.cpu.pullPolicy", "Sometimes"), ["/images/cpu/pullPolicy", "IfNotPresent"]),
    (at("gateway.service.type", "Ingress"), ["/gateway/service/type", "LoadBalancer"]),
    (at("models.storage", "s3"), ["/models/storage", "hostPath"]),
    (at("models.accessMode", "ReadOnlyMany"), ["/models/accessMode", "ReadWriteMany"]),
    (at("secrets.generate", "always"), ["/secrets/generate", "auto"]),
    (at("services.greeter", {**ROOM, "kind": "StatefulSet"}), ["/services/greeter/kind", "DaemonSet"]),
    (config("topology.kind", "single"), ["/config/topology/kind", "sharded"]),
    (config("topology.device", "cuda"), ["/config/topology/device", "auto"]),
    (config("topology.replicas", "all"), ["/config/topology/replicas", "auto"]),
    (config("engine.kv_cache_dtype", "int4"), ["/config/engine/kv_cache_dtype", "fp8"]),
    # ranges
    (workers(group(replicas=0)), ["/workers/0/replicas", "minimum"]),
    (workers(group(gpus=-1)), ["/workers/0/gpus", "minimum"]),
    (at("gateway.pods", 0), ["/gateway/pods", "minimum"]),
    (at("drainSeconds", -1), ["/drainSeconds", "minimum"]),
    (at("gateway.service.nodePorts.http", 70000), ["/gateway/service/nodePorts/http", "maximum"]),
    (at("tests.timeoutSeconds", 5), ["/tests/timeoutSeconds", "minimum"]),
    (config("engine.gpu_memory_utilization", 1.5), ["/config/engine/gpu_memory_utilization", "maximum"]),
    (config("topology.tensor_parallel", 0), ["/config/topology/tensor_parallel", "minimum"]),
    # quantities
    (at("models.size", "100GB"), ["/models/size", "pattern"]),
    (at("models.size", "many"), ["/models/size", "pattern"]),
    (at("redis.storage.size", 2), ["/redis/storage/size", "string"]),
    (at("head.resources.limits.memory", "4096m"), ["/head/resources/limits/memory", "pattern"]),
    (at("head.resources.limits.cpu", "two"), ["/head/resources/limits/cpu", "pattern"]),
    (workers(group(sharedMemory="8 Gi")), ["/workers/0/sharedMemory", "pattern"]),
    (at("monitoring.podMonitor.interval", "15"), ["/monitoring/podMonitor/interval", "pattern"]),
    # names
    (workers(group(name="Main")), ["/workers/0/name", "pattern"]),
    (workers(group(name="a_b")), ["/workers/0/name", "pattern"]),
    (at("fullnameOverride", "My_Mind"), ["/fullnameOverride", "pattern"]),
    (at("images.gpu.digest", DIGEST), ["/images/gpu/digest", "pattern"]),
    (at("images.gpu.repository", "GHCR.io/x:latest"), ["/images/gpu/repository", "pattern"]),
    (at("secrets.existingSecret", "My Secret"), ["/secrets/existingSecret", "pattern"]),
    (at("gpu.resourceName", "gpu"), ["/gpu/resourceName", "pattern"]),
    (at("models.hostPath", "models"), ["/models/hostPath", "pattern"]),
    (at("ingress.host", "https://mind.home"), ["/ingress/host", "pattern"]),
    (at("head.nodeSelector", {"a b": "c"}), ["/head/nodeSelector", "a b"]),
    (workers(group(env={"1ST": "x"})), ["/workers/0/env", "1ST"]),
    (at("services", {"my-room": ROOM}), ["/services", "my-room"]),
    (at("services.greeter", {}), ["/services/greeter", "module"]),
    (at("configFiles", {"../sage.txt": ""}), ["/configFiles", "sage.txt"]),
    (config("roles", {"Sage!": {"frame": "Be wise."}}), ["/config/roles", "Sage!"]),
    (config("executors.rented", {"model": "x", "url": "ftp://x"}), ["/config/executors/rented/url", "pattern"]),
]  # fmt: skip

TWO_KEYS = [
    # groups
    (workers(GPU, group()), ["workers", "two groups", '"main"']),
    (workers(GPU, group(name="head")), ["workers", "head", "taken"]),
    (at("gateway.worker", "man"), ["gateway.worker", "man", "main"]),
    (workers(group(image="cpu")), ["workers.main", "image: gpu"]),
    (workers({**CPU, "image": "gpu"}), ["workers.main", "gpus is 0"]),
    (workers(group(resources=cores("2"))), ["workers.main.resources.limits.cpu", "4 or more"]),
    (workers(group(resources=cores("3500m"))), ["workers.main.resources.limits.cpu", "4 or more"]),
    (workers(group(resources=cores("8", asked="9"))), ["workers.main.resources.requests.cpu", "limits.cpu"]),
    (at("head.resources.requests.memory", "5Gi"), ["head.resources.requests.memory", "4Gi"]),
    (at("redis.resources.limits.cpu", "10m"), ["redis.resources.requests.cpu", "50m"]),
    (workers(group(sharedMemory="32Gi")), ["workers.main.sharedMemory", "16Gi"]),
    (workers(group(env={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"})), ["workers.main.env.RAY_SERVE_THROUGHPUT_OPTIMIZED"]),
    (workers(group(env={"CONSILIUM_TOKEN": "x"})), ["workers.main.env.CONSILIUM_TOKEN"]),
    # engines and cards
    (config("topology", {"device": "gpu"}), ["config.topology.device", "cards"]),
    (workers(GPU, topology={"device": "cpu"}), ["config.topology.device", "image: cpu"]),
    (workers(GPU, topology={"pool": "large"}), ["config.topology.pool", "large", "main"]),
    (workers(GPU, {**CPU, "name": "slow"}, topology={"pool": "slow"}), ["config.topology.pool", "image: gpu", "slow"]),
    (workers(group(replicas=2), topology={"kind": "sharded", "tensor_parallel": 2}), ["config.topology.tensor_parallel", "2 cards in one pod", "have 1"]),
    (workers(group(gpus=4), topology={"kind": "sharded", "tensor_parallel": 4, "nodes": 2}), ["config.topology.nodes", "2 pods"]),
    (workers(group(gpus=4), topology={"kind": "sharded", "tensor_parallel": 4, "nodes": 3}), ["config.topology.nodes", "evenly"]),
    (workers(GPU, topology={"replicas": 2}), ["config.topology.replicas", "2 copies"]),
    (workers(group(gpus=3, replicas=2), topology={"kind": "sharded", "tensor_parallel": 2, "replicas": 3}), ["config.topology.replicas", "hold 2"]),
    (workers(GPU, topology={"kind": "hybrid"}, executors={"coder": {"model": "demo"}}), ["config.executors.coder.replicas", "leaves 0"]),
    (workers(GPU, topology={"kind": "hybrid"}, executors={"coder": {"model": "demo", "pool": "small"}}), ["config.executors.coder.pool", "small"]),
    # what the chart or a Secret says instead
    (config("gateway.port", 9999), ["config.gateway.port", "8000"]),
    (config("gateway.host", "127.0.0.1"), ["config.gateway.host", "gateway.service"]),
    (config("roles.sage.frame_file", "sage.txt"), ["config.roles.sage.frame_file", "sage.txt", "configFiles"]),
    (config("executors.rented", {"model": "x", "url": "http://x/v1", "key_env": "RENTED"}), ["config.executors.rented.key_env", "RENTED", "secrets.environmentSecret"]),
    (at("configFiles", {"consilium.yaml": ""}), ["configFiles", "consilium.yaml"]),
    # Redis
    (at("redis.builtin", False), ["redis.builtin", "redis.external.existingSecret"]),
    (config("redis.url", "redis://other:6379/0"), ["config.redis.url", "redis.builtin"]),
    (at("redis.external.existingSecret", "mine"), ["redis.external.existingSecret", "redis.builtin"]),
    ({**at("redis", {"builtin": False, "external": {"existingSecret": "mine"}}), **config("redis.url", "redis://other:6379/0")}, ["redis.external.existingSecret", "config.redis.url"]),
    ({**at("redis.builtin", False), **config("redis.url", "redis://:secret@other:6379/0")}, ["config.redis", "ConfigMap"]),
    (config("redis.password", "secret"), ["config.redis", "ConfigMap", "redis.external"]),
    # storage
    (at("models.storage", "nfs"), ["models.nfs.server"]),
    (at("models", {"storage": "nfs", "nfs": {"server": "10.0.0.1"}}), ["models.nfs.path"]),
    (at("models.storage", "existing"), ["models.existingClaim"]),
    # rooms
    (at("services.greeter", {**ROOM, "replicas": 2, "storage": {"size": "1Gi"}}), ["services.greeter", "replicas: 1"]),
    (at("services.greeter", {**ROOM, "kind": "DaemonSet", "replicas": 2}), ["services.greeter.replicas", "DaemonSet"]),
    (at("services.greeter", {**ROOM, "kind": "DaemonSet", "storage": {"size": "1Gi"}}), ["services.greeter", "every node"]),
    (at("services", {"redis": ROOM}), ["services", "redis", "taken"]),
    (at("services", {"gateway": ROOM}), ["services", "gateway", "taken"]),
    # the way in
    (at("gateway.service.nodePorts.http", 30080), ["gateway.service.nodePorts", "ClusterIP"]),
    (at("gateway.service", {"type": "NodePort", "nodePorts": {"http": 30080, "grpc": 30080}}), ["gateway.service.nodePorts", "a port each"]),
    (at("ingress.enabled", True), ["ingress.host"]),
    (at("routes.enabled", True), ["routes.parents"]),
]  # fmt: skip

IN_CONFIG = [
    (config("topology", {"kind": "replicas", "tensor_parallel": 2}), ["config.topology.kind", "sharded or hybrid"]),
    (config("topology", {"kind": "sharded"}), ["config.topology.kind", "above 1"]),
    (config("model", " "), ["config.model", "empty"]),
    (config("executors", {"core": {"model": "demo"}}), ["config.executors.core"]),
    (config("executors", {"coder": {"model": "demo"}}), ["config.executors.coder", "hybrid"]),
    (at("config", {"topology": HYBRID, "executors": {"coder": {"model": "demo", "fallback": "cor"}}}), ["config.executors.coder.fallback", "cor", "core"]),
    (config("roles.sage.profile", "deep"), ["config.roles.sage.profile", "deep", "think"]),
    (config("roles.sage.executor", "large"), ["config.roles.sage.executor", "large"]),
    (config("roles.sage", {"frame": "x", "frame_file": "y"}), ["config.roles.sage.frame_file", "not both"]),
    (config("profiles.brief.executor", "large"), ["config.profiles.brief.executor", "large"]),
    (config("embedding.executor", "vectors"), ["config.embedding.executor", "vectors"]),
    (config("embedding.backend", "openai"), ["config.embedding.backend", "url and model"]),
    (config("embedding.backend", "engine"), ["config.embedding.backend", "executor and model"]),
    (config("embedding.model", "bge-m3"), ["config.embedding.model", "bge-m3", "minilm-e5"]),
    (config("gateway.cors_origins", ["mind.home"]), ["config.gateway.cors_origins", "mind.home", "scheme://host"]),
    (config("gateway.cors_origins", ["https://mind.home/chat"]), ["config.gateway.cors_origins", "mind.home/chat"]),
]  # fmt: skip
"""What consilium.yaml itself refuses, on one machine too."""

RIGHT = {
    "cards over two pods": workers(group(replicas=2), topology={"kind": "sharded", "tensor_parallel": 2, "nodes": 2}),
    "cores as a number": workers(group(resources=cores(8))),
    "a remote executor whose key is in a pod": workers(group(env={"RENTED": "x"}), executors={"rented": {"model": "x", "url": "http://x/v1", "key_env": "RENTED"}}),
    "a frame in a file": {**config("roles.sage.frame_file", "sage.txt"), "configFiles": {"sage.txt": "Be wise."}},
    "a Redis without a password": {**at("redis.builtin", False), **config("redis.url", "redis://other:6379/0")},
    "engines on cores beside engines on cards": workers(GPU, {**CPU, "name": "slow"}, topology={"kind": "hybrid"}, executors={"small": {"model": "demo", "device": "cpu", "pool": "slow"}}),
    "every card": workers(group(gpus=4), topology={"replicas": "auto"}),
    "node ports": at("gateway.service", {"type": "NodePort", "nodePorts": {"http": 30080, "grpc": 30090}}),
    "callers in browsers": config("gateway.cors_origins", ["https://mind.home:8443", "*"]),
    "vectors from elsewhere": config("embedding", {"backend": "openai", "url": "http://x/v1", "model": "bge-m3"}),
    "a room with a disk": at("services.greeter", {**ROOM, "storage": {"size": "1Gi", "storageClass": "fast"}}),
}  # fmt: skip


def case_id(row):
    return " ".join(row[1])[:60]


def refusal(values):
    with pytest.raises(HelmError) as caught:
        rendered.render(values)
    return str(caught.value)


@pytest.mark.parametrize("row", UNKNOWN, ids=case_id)
def test_a_key_that_nobody_reads_is_refused_by_name(row):
    values, (place, key) = row[0], row[1] if len(row[1]) == 2 else ("", *row[1])
    said = refusal(values)
    assert "additional properties" in said
    assert f"'{place}'" in said
    assert f"'{key}'" in said or key in said.partition("additional properties")[2]


@pytest.mark.parametrize("row", FORM, ids=case_id)
def test_a_value_of_another_form_is_refused(row):
    said = refusal(row[0])
    assert "specifications of the schema" in said
    assert f"'{row[1][0]}'" in said
    assert all(word in said for word in row[1][1:]), said


@pytest.mark.parametrize("row", TWO_KEYS + IN_CONFIG, ids=case_id)
def test_values_that_do_not_go_together_are_refused_in_words(row):
    said = refusal(row[0])
    assert "specifications of the schema" not in said, "a template refuses this one"
    assert all(word in said for word in row[1]), said


@pytest.mark.parametrize("row", IN_CONFIG, ids=case_id)
def test_the_code_refuses_the_same(row):
    with pytest.raises(ValidationError):
        ConsiliumConfig.model_validate(row[0]["config"])


@pytest.mark.parametrize("name", RIGHT)
def test_what_looks_like_them_and_is_right_is_taken(name):
    rendered.render(RIGHT[name])
    ConsiliumConfig.model_validate(RIGHT[name].get("config", {}))


def test_names_that_are_there_from_the_start_are_those_of_the_code():
    # Templates cannot ask the code, so they have lists of their own.
    for name in OFFLINE:
        rendered.render(config("embedding.model", name))
    rendered.render(config("roles", {name: {"profile": name} for name in BUILT_IN_PROFILES}))


def test_a_release_whose_name_begins_with_a_digit_is_told_the_way_out():
    with pytest.raises(HelmError, match="fullnameOverride"):
        rendered.render({}, release="1box")
    rendered.render({"fullnameOverride": "box"}, release="1box")


def test_there_are_enough_of_them():
    assert len(UNKNOWN + FORM + TWO_KEYS + IN_CONFIG) >= 60
