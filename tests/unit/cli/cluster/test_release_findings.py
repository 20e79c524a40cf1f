"""Each way in which a release does not start: what is said of it, and what to do. The releases lie in releases/."""

from __future__ import annotations

import pytest
from tests.unit.cli.cluster.recorded import FOLDER, release
from tests.unit.cli.cluster.test_install_findings import volume

from consilium.cli.cluster import last_words
from consilium.cli.cluster.objects import quantity
from consilium.cli.cluster.release import Release
from consilium.cli.cluster.release_findings import findings
from consilium.kernel.doctor import Level

CASES = {
    # file: (id of the first finding, words of its sentence, words of the way out)
    "no_class": ("no_storage_class", ("no default", "data-mind-consilium-redis-0"), ("kubectl get storageclass", "redis.storage.storageClass")),
    "quota": ("quota", ("small", "requests.memory=2Gi", "2112Mi"), ("kubectl -n tight edit resourcequota small",)),
    "no_gpu": ("no_card_offered", ("nvidia.com/gpu: 1", "no node offers any"), ("k8s/prerequisites/install.sh",)),
    "no_runtime_class": ("runtime_class_missing", ("gpu.runtimeClassName is nvidia",), ("k8s/prerequisites/install.sh",)),
    "invalid": ("rayservice_invalid", ("Nonne",), ("helm get manifest mind -n llm",)),
    "waits_for_volume": ("provisioner_silent", ("rancher.io/local-path",), ("kubectl get pods -A | grep -i local-path",)),
    "no_runtime_handler": ("no_runtime_handler", ("does not know the runtime nvidia",), ("nvidia-container-toolkit", "restart k3s")),
    "image_no_access": ("image_no_access", ("does not let this cluster in",), ("global.imagePullSecrets",)),
    "image_missing": ("image_missing", ("there is no such image", "consilium-gpu:0.1.0"), ("ctr images import",)),
    "image_disk_full": ("image_disk_full", ("cards", "disk is full"), ("crictl rmi --prune",)),
    "registry_unreached": ("registry_unreached", ("not reached",), ("global.imageRegistry",)),
    "image_name": ("image_name", ("no name of an image",), ("images.*.repository",)),
    "out_of_memory": ("out_of_memory", ("64Gi", "killed (4 times)"), ("workers[name=main].resources.limits.memory",)),
    "crash_loop": ("crash_loop", ("ModuleNotFoundError: No module named 'consilium'",), ("kubectl -n llm logs", "--previous")),
    "own_refusal": ("model_missing", ("it is not in /models",), ("Name a folder that holds config.json.",)),
    "no_gpu_in_pod": ("no_gpu_in_pod", ("topology asks for 1 GPU(s), and 0 were seen.",), ("gpu.runtimeClassName: nvidia",)),
    "deploy_failed": ("does_not_fit", ("executor-core", "438.0 GiB"), ("Change the setting", "helm upgrade mind")),
    "replica_failed": ("application_deploy_failed", ("RuntimeError: Engine core initialization failed",), ("exec mind-consilium-cv4pt-main-worker-rrvxt -c ray-worker", "session_latest/logs")),
    "no_place": ("replicas_have_no_place", ('"GPU": 2.0', '"GPU": 1.0'), ("config.topology",)),
    "engine_starting": ("application_starting", ("executor-core is starting",), ("session_latest/logs",)),
    "engine_slow": ("application_slow", ("for 31 min",), ("NCCL_P2P_DISABLE", "session_latest/logs")),
    "card_memory": ("card_memory", ("executor-core", "21.3/23.6 GiB"), ("consilium plan",)),
    "probe_killed": ("probe_killed", ("model-00007-of-00016",), ("models.prefetch.enabled",)),
    "waits_for_head": ("waits_for_head", ("waits for mind-consilium-cv4pt-head-jctwr",), ("the head",)),
    "nccl_hangs": ("nccl_hangs", ("19 min", "nccl==2.27.5"), ("NCCL_P2P_DISABLE",)),
    "old_gcs_state": ("old_gcs_state", ("earlier Ray cluster in Redis",), ("kubectl -n llm delete raycluster",)),
    "shared_memory": ("little_shared_memory", ("/dev/shm", "Bus error"), ("workers[].sharedMemory",)),
    "second_cluster": ("second_cluster", ("beside mind-consilium-cv4pt",), ("delete raycluster mind-consilium-cv4pt",)),
    "not_taken_over": ("not_taken_over", ("image of main",), ("delete raycluster -l ray.io/originated-from-cr-name=mind-consilium",)),
    "pod_security": ("pod_security", ("restricted:latest", "istio-proxy"), ("pod-security.kubernetes.io/enforce=baseline",)),
    "limit_range": ("limit_range", ("minimum memory usage per Container is 128Mi",), ("describe limitrange",)),
    "prefetch_failed": ("prefetch_failed", ("has given up", "Temporary failure in name resolution"), ("Without a network", "kubectl -n llm delete job mind-consilium-fetch-e1e4a237")),
    "evicted": ("evicted", ("low on resource: ephemeral-storage",), ("crictl rmi --prune",)),
    "node_gone": ("node_gone", ("cards is not ready", "stopped posting"), ("kubectl describe node cards",)),
    "cut_short": ("cut_short", ("consilium drain --local",), ("drainSeconds",)),
    "secret_missing": ("secret_missing", ('secret "mine" not found',), ("secrets.existingSecret",)),
    "nfs_failed": ("nfs_failed", ("access denied by server",), ("models.nfs.server",)),
    "storage_class_missing": ("storage_class_missing", ("fast", "local-path"), ("delete pvc mind-consilium-models",)),
    "provisioner_silent": ("provisioner_silent", ("rancher.io/local-path",), ("grep -i local-path",)),
    "operator_silent": ("operator_silent", ("nobody has looked",), ("k8s/prerequisites/install.sh",)),
    "tainted": ("tainted", ("{dedicated: gpu}",), ("gpu.tolerations",)),
    "insufficient_memory": ("insufficient_memory", ("24Gi",), ("workers[name=main].resources.requests.memory",)),
    "adapters_claim": ("storage_class_missing", ("mind-consilium-lora-router", "fast"), ("adapters.storage.storageClass",)),
    "adapters_newer": ("state_newer", ("lora-router of mind-consilium-lora-router", "version 2, and this program knows 1"), ("Do what the sentence says",)),
    "adapters_memory": ("out_of_memory", ("2Gi",), ("adapters.resources.limits.memory",)),
    "adapters_tainted": ("tainted", ("{dedicated: gpu}",), ("adapters.tolerations",)),
    "volume_released": ("volume_released", ("mind-consilium-lora-router", "pvc-77aa", "64Gi"), ("kubectl patch pv pvc-77aa --type=json -p '[{\"op\": \"remove\", \"path\": \"/spec/claimRef/uid\"}]'", "kubectl delete pv pvc-77aa")),
    "suspended": ("suspended", ("mind-consilium is suspended",), ('{"spec":{"suspend":false}}',)),
    "gcs_cleanup_hangs": ("gcs_cleanup_hangs", ("cannot end",), ("finalizers",)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_release_that_does_not_start_says_why(name):
    first, words, way_out = CASES[name]
    found = findings(release(name))
    told = "\n".join(f"{one.level} {one.id}: {one.sentence} -> {one.way_out}" for one in found)
    assert found[0].id == first, told
    assert all(word in found[0].sentence for word in words), told
    assert all(word in found[0].way_out for word in way_out), told


@pytest.mark.parametrize("name", CASES)
def test_every_finding_that_is_not_well_has_a_way_out_and_is_told_once(name):
    found = findings(release(name))
    assert all(one.way_out for one in found if one.level is not Level.OK)
    failures = [one.id for one in found if one.level is Level.FAILURE]
    assert len(failures) <= 3, failures


def test_a_healthy_release_says_so():
    found = findings(release("healthy"))
    assert [(one.id, one.level) for one in found] == [("answers", Level.OK), ("pods", Level.OK)]
    assert found[0].sentence == "mind-consilium answers at 1 pod"


def volumes(release_volumes):
    return [(one.level, one.sentence) for one in findings(release("healthy", volumes=release_volumes)) if one.id.startswith("volume_")]  # fmt: skip


def test_a_volume_that_is_left_beside_a_release_that_is_well_is_a_note():
    ((level, said),) = volumes((volume("old"),))
    assert level is Level.NOTE
    assert "mind-consilium-models has the volume" in said
    ((level, said),) = volumes((volume("old", claim="mind-consilium-other"),))
    assert level is Level.NOTE
    assert "deleted claim mind-consilium-other" in said


def test_volumes_of_others_and_those_that_are_bound_are_not_told():
    assert not volumes((volume("a", space="other"), volume("b", claim="theirs"), volume("c", phase="Bound")))  # fmt: skip


def test_every_recorded_release_is_a_case():
    assert {file.stem for file in FOLDER.glob("*.json")} == {*CASES, "healthy"}


def test_a_release_that_is_not_there_names_those_that_are():
    (found,) = findings(Release("mnid", "llm", others=("mind",)))
    assert found.id == "release_unknown"
    assert "mind" in found.sentence
    assert "helm list" in found.way_out


def test_what_may_not_be_read_is_told():
    found = findings(release("healthy", unread={"nodes": "these credentials may not read nodes"}))
    assert found[0].id == "unread_nodes"
    assert found[0].level is Level.WARNING


def test_what_happened_to_an_earlier_object_of_the_same_name_is_not_told():
    stale = {"involvedObject": {"name": "mind-consilium-redis-0", "uid": "another"}, "reason": "FailedMount", "message": "x", "lastTimestamp": "2026-11-27T09:39:00Z"}  # fmt: skip
    assert not list(release("healthy", events=(stale,)).events_of("FailedMount"))


@pytest.mark.parametrize(("text", "number"), [("500m", 0.5), ("4", 4), ("2Gi", 2**31), ("1k", 1000), ("900Ki", 921600), ("1e3", 1000)])  # fmt: skip
def test_quantities(text, number):
    assert quantity(text) == number


def test_last_words():
    assert last_words.of_log("error: no\nnext: do\n", 64).code == "config_invalid"
    assert last_words.of_log("a\nb\n", 1).text == "a | b"
    ours = last_words.of_traceback("x\nconsilium.kernel.errors.ConsiliumError: port_taken: gateway.port 8000 is taken. [pid=3]\n")  # fmt: skip
    assert (ours.code, ours.text) == ("port_taken", "gateway.port 8000 is taken.")
    assert last_words.of_traceback("ConsiliumError: no_code_of_ours: said").code == ""


WORKER = "mind-consilium-cv4pt-main-worker-rrvxt"


@pytest.mark.parametrize("end", [".", ", 1 node(s) had untolerated taint(s).", ". preemption: none", ""])  # fmt: skip
@pytest.mark.parametrize(
    ("offered", "asked", "first"),
    [("1", "1", "cards_taken"), ("1", "2", "too_few_cards_in_node"), ("0", "1", "no_card_offered")],
)
def test_why_a_pod_has_no_card_depends_on_what_nodes_offer(offered, asked, first, end):
    """The scheduler ends its sentence in several ways; the name of the resource is the same in all."""
    message = f"0/2 nodes are available: 2 Insufficient nvidia.com/gpu{end}"
    known = release("insufficient_memory")
    (pod,) = [one for one in known.pods if one["metadata"]["name"] == WORKER]
    pod["status"]["conditions"][0]["message"] = message
    pod["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = asked
    for node in known.nodes:
        node["status"]["allocatable"]["nvidia.com/gpu"] = offered
    found = findings(known)[0]
    assert found.id == first, found
    assert f"nvidia.com/gpu: {asked}," in found.sentence or "cards in one pod" in found.sentence
