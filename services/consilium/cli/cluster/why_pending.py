"""Why pods of a release do not start: no node takes them, a volume is missing, the runtime or the image.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from consilium.cli.cluster.objects import (
    Object,
    component_of,
    condition,
    labels_of,
    made_at,
    name_of,
    status_of,
)
from consilium.cli.cluster.release import Release, happened_at, is_about
from consilium.kernel.doctor import Finding, Level

_HANDLER: Final = re.compile(r'no runtime for "?(?P<name>[^"\s]+)"? is configured|RuntimeHandler "?(?P<other>[^"\s]+)"? not supported')  # fmt: skip
SLOW_S: Final = 60.0
"""Provisioners of home labs make a volume within seconds."""
_GPU: Final = re.compile(r"Insufficient (?P<what>[^\s,]*(?:gpu|mig|tpu)[^\s,]*?)[.,]?(?:\s|$)")
_PLAIN: Final = re.compile(r"Insufficient (?P<what>cpu|memory|ephemeral-storage|hugepages-\S+)")
_KNOB: Final = {"head": "head.resources", "worker": "workers[].resources", "gateway": "gateway.resources", "redis": "redis.resources", "prefetch": "models.prefetch.resources", "gpu_metrics": "gpu.metrics.resources", "lora_router": "adapters.resources"}  # fmt: skip


def knob(pod: Object) -> str:
    """Return which values say what a pod asks for."""
    part = component_of(pod)
    if part == "worker":
        group = labels_of(pod).get("consilium/pool", "")
        return f"workers[name={group}].resources" if group else _KNOB[part]
    return _KNOB.get(part, f"services.{part}.resources" if part else "resources")


def findings(release: Release) -> Iterator[Finding]:
    """Yield why pods wait before their containers run."""
    yield from _scheduling(release)
    yield from _claims(release)
    yield from _mounts(release)
    yield from _sandboxes(release)


def _scheduling(release: Release) -> Iterator[Finding]:
    for pod in release.pods:
        row = condition(pod, "PodScheduled")
        if row.get("reason") == "Unschedulable":
            yield from _unschedulable(release, pod, row.get("message", ""))
        elif row.get("reason") == "SchedulingGated":
            yield Finding("gated", "scheduling", Level.WARNING, f"{name_of(pod)} is held back by a scheduling gate, such as Kueue's queue", "kubectl get workloads -A shows the queue; it starts when it is admitted.")  # fmt: skip


def _unschedulable(release: Release, pod: Object, message: str) -> Iterator[Finding]:
    said = message.partition("preemption:")[0]
    if "PersistentVolumeClaim" in said and "unbound" in said:
        return  # told by the claim
    name, space = name_of(pod), release.namespace
    told = False
    if found := _GPU.search(said):
        told = True
        yield _cards(release, pod, found["what"])
    if found := _PLAIN.search(said):
        told = True
        short, asked = found["what"], _asked(pod, found["what"])
        yield Finding(
            f"insufficient_{short.replace('-', '_')}",
            "scheduling",
            Level.FAILURE,
            f"no node has {asked} of {short} left for {name}: {said.strip()}",
            f"Lower {knob(pod)}.requests.{short}, or end what fills the nodes: kubectl describe nodes | grep -A8 'Allocated resources'",
        )
    if not told and "taint" in said:
        told = True
        yield Finding("tainted", "scheduling", Level.FAILURE, f"every node that could take {name} is tainted: {said.strip()}", f"kubectl describe nodes | grep Taints shows them; add what is meant to {_tolerations(pod)}, or take the taint away.")  # fmt: skip
    if not told and "volume node affinity" in said:
        told = True
        yield Finding("volume_elsewhere", "volumes", Level.FAILURE, f"the disk of {name} lies on another node than the one with room for it: {said.strip()}", "Put the pod where its volume is (nodeSelector), or use storage that every node reaches: models.storage: nfs.")  # fmt: skip
    if not told and ("node affinity/selector" in said or "node selector" in said):
        told = True
        yield Finding("no_such_node", "scheduling", Level.FAILURE, f"no node has the labels that {name} asks for: {said.strip()}", f"kubectl get nodes --show-labels; correct {knob(pod).removesuffix('.resources')}.nodeSelector or .affinity.")  # fmt: skip
    if not told:
        yield Finding("unschedulable", "scheduling", Level.FAILURE, f"no node takes {name}: {said.strip() or message}", f"kubectl -n {space} describe pod {name} shows what the scheduler says of each node.")  # fmt: skip


def _cards(release: Release, pod: Object, resource: str) -> Finding:
    """Say why a pod gets no card: there is none in the cluster, too few in one node, or others hold them."""
    name = name_of(pod)
    asked = float(_asked(pod, resource) or 1)
    lent = {name_of(node): float((status_of(node).get("allocatable") or {}).get(resource, 0)) for node in release.nodes}  # fmt: skip
    if len(release.clusters) > 1:
        old = name_of(min(release.clusters, key=lambda one: str(one["metadata"].get("creationTimestamp"))))  # fmt: skip
        return Finding("second_cluster", "upgrade", Level.FAILURE, f"{name} belongs to a second Ray cluster beside {old}, which holds the cards: a cluster of replacement needs every card twice", f"The chart ships upgradeStrategy None; somebody set another. End the old one: kubectl -n {release.namespace} delete raycluster {old}")  # fmt: skip
    if not lent:
        return Finding(
            "no_card_left",
            "GPUs",
            Level.FAILURE,
            f"{name} asks for {resource}: {asked:g}, and no node has that left; whether one offers any cannot be told without reading nodes",
            "Ask somebody who may: consilium doctor --cluster",
        )
    if not any(lent.values()):
        return Finding("no_card_offered", "GPUs", Level.FAILURE, f"{name} asks for {resource}: {asked:g}, and no node offers any: the device plugin does not run, or does not find the driver", "k8s/prerequisites/install.sh installs it; kubectl -n nvidia-device-plugin logs ds/nvidia-device-plugin says what it found. If the cards have another name there (nvidia.com/gpu.shared, MIG), say it in gpu.resourceName.")  # fmt: skip
    if asked > max(lent.values()):
        return Finding("too_few_cards_in_node", "GPUs", Level.FAILURE, f"{name} asks for {asked:g} cards in one pod, and no node has more than {max(lent.values()):g}", "Spread it: more groups or replicas in workers with fewer gpus each, and config.topology.kind: sharded with pipeline_parallel over them.")  # fmt: skip
    return Finding("cards_taken", "GPUs", Level.FAILURE, f"{name} asks for {resource}: {asked:g}, and other pods hold the cards", f"kubectl get pods -A -o custom-columns=NS:.metadata.namespace,NAME:.metadata.name,GPU:.spec.containers[*].resources.limits.{resource.replace('.', chr(92) + '.')} shows who.")  # fmt: skip


def _asked(pod: Object, resource: str) -> str:
    for one in (pod.get("spec") or {}).get("containers") or ():
        found = ((one.get("resources") or {}).get("requests") or {}).get(resource)
        if found is not None:
            return str(found)
    return ""


def _tolerations(pod: Object) -> str:
    part = component_of(pod)
    if part == "worker":
        return "gpu.tolerations or workers[].tolerations"
    if part == "gpu_metrics":
        return "gpu.tolerations"
    return f"{knob(pod).removesuffix('.resources')}.tolerations"


def _claims(release: Release) -> Iterator[Finding]:
    for claim in release.claims:
        phase = status_of(claim).get("phase")
        if phase == "Lost":
            yield Finding("volume_lost", "volumes", Level.FAILURE, f"the volume of the claim {name_of(claim)} is gone", f"Restore the PersistentVolume, or delete the claim and begin anew: kubectl -n {release.namespace} delete pvc {name_of(claim)}")  # fmt: skip
        elif phase == "Pending":
            yield _pending_claim(release, claim)


def _class_of(claim: str) -> str:
    """Return which value names the StorageClass of a claim."""
    if "redis" in claim:
        return "redis.storage.storageClass"
    return f"{'adapters.storage' if claim.endswith('-lora-router') else 'models'}.storageClass"


def _pending_claim(release: Release, claim: Object) -> Finding:
    name, space = name_of(claim), release.namespace
    values = _class_of(name)
    on_disk = ", or on one box set models.storage: hostPath" if values.startswith("models") else ""
    wanted = (claim.get("spec") or {}).get("storageClassName")
    rows = [one for one in release.events if is_about(one, claim)]
    rows.sort(key=happened_at, reverse=True)
    made = next((one for one in rows if one.get("reason") == "ExternalProvisioning"), None)
    newest = made or (rows[0] if rows else {})
    said = newest.get("message", "")
    known = [name_of(one) for one in release.classes]
    if wanted is None or "no storage class is set" in said:
        there = f"there are: {', '.join(known)}" if known else "there is none at all"
        return Finding("no_storage_class", "volumes", Level.FAILURE, f"the claim {name} names no StorageClass, and the cluster has no default one; {there}", f"kubectl get storageclass. Name one in {values}, or make one the default{on_disk}. Then delete the claim, which cannot be edited: kubectl -n {space} delete pvc {name}, and run helm upgrade.")  # fmt: skip
    if wanted and wanted not in known and not (claim.get("spec") or {}).get("volumeName") and release.classes:  # fmt: skip
        return Finding("storage_class_missing", "volumes", Level.FAILURE, f"the claim {name} asks for the StorageClass {wanted}, and there is none of that name; there are: {', '.join(known)}", f"Correct {values}; then kubectl -n {space} delete pvc {name}, and run helm upgrade.")  # fmt: skip
    if newest.get("reason") == "ProvisioningFailed":
        return Finding("provisioning_failed", "volumes", Level.FAILURE, f"no volume can be made for the claim {name}: {said}", f"kubectl -n {space} describe pvc {name}; the provisioner of {wanted} says more in its own log.")  # fmt: skip
    is_old = release.now - made_at(claim) > SLOW_S
    if newest.get("reason") == "ExternalProvisioning" and is_old:
        maker = re.search(r"provisioner '([^']+)'", said)
        who = maker[1] if maker else "the provisioner"
        return Finding("provisioner_silent", "volumes", Level.FAILURE, f"the claim {name} waits for {who}, which has not made a volume", f"See whether it runs: kubectl get pods -A | grep -i {who.rpartition('/')[2]}. Without one, choose another class in {values}{on_disk}.")  # fmt: skip
    if newest.get("reason") in ("WaitForFirstConsumer", "ExternalProvisioning"):
        return Finding("volume_waits_for_pod", "volumes", Level.NOTE, f"the claim {name} gets its volume once its pod has a node", "Nothing is to be done about it; see why the pod has none.")  # fmt: skip
    return Finding("claim_pending", "volumes", Level.FAILURE, f"the claim {name} has no volume: {said or 'nothing says why'}", f"kubectl -n {space} describe pvc {name}")  # fmt: skip


def _mounts(release: Release) -> Iterator[Finding]:
    for event in _newest(release, "FailedMount", "FailedAttachVolume"):
        pod, said = event["involvedObject"]["name"], event.get("message", "")
        if "not found" in said and ("secret" in said or "configmap" in said):
            yield Finding("secret_missing", "volumes", Level.FAILURE, f"{pod} cannot start: {said}", "secrets.existingSecret must name a Secret of this namespace with all keys of the chart's README.")  # fmt: skip
        elif "Multi-Attach" in said:
            yield Finding("volume_taken", "volumes", Level.FAILURE, f"{pod} waits for a disk that another node holds: {said}", "A ReadWriteOnce volume serves one node. End the pod that has it, or use models.accessMode: ReadWriteMany with storage that can.")  # fmt: skip
        elif "nfs" in said.lower():
            yield Finding("nfs_failed", "volumes", Level.FAILURE, f"{pod} cannot mount the models: {said}", "See models.nfs.server and .path; each node needs the NFS client (apt install nfs-common), and the server must export the folder to it.")  # fmt: skip
        else:
            yield Finding("mount_failed", "volumes", Level.FAILURE, f"{pod} cannot mount a volume: {said}", f"kubectl -n {release.namespace} describe pod {pod}")  # fmt: skip


def _sandboxes(release: Release) -> Iterator[Finding]:
    for event in _newest(release, "FailedCreatePodSandBox", "UnexpectedAdmissionError"):
        pod, said = event["involvedObject"]["name"], event.get("message", "")
        if found := _HANDLER.search(said):
            handler = found["name"] or found["other"]
            yield Finding("no_runtime_handler", "RuntimeClass", Level.FAILURE, f"the node of {pod} does not know the runtime {handler}: the RuntimeClass is there, and containerd has no such handler", "Install nvidia-container-toolkit on the node. k3s finds it when it starts: sudo systemctl restart k3s (or k3s-agent); elsewhere: sudo nvidia-ctk runtime configure --runtime=containerd && sudo systemctl restart containerd")  # fmt: skip
        elif event.get("reason") == "UnexpectedAdmissionError":
            yield Finding("card_refused", "GPUs", Level.FAILURE, f"the kubelet gave {pod} no card: {said}", "The device plugin lost it: kubectl -n nvidia-device-plugin rollout restart ds/nvidia-device-plugin, then delete the pod.")  # fmt: skip
        else:
            yield Finding("no_sandbox", "network", Level.FAILURE, f"the node makes no sandbox for {pod}: {said}", "Most often the network plugin (CNI): kubectl get pods -n kube-system shows whether it runs on that node.")  # fmt: skip


def _newest(release: Release, *reasons: str) -> Iterator[Object]:
    """Yield the newest event of each pod that is still waiting to start."""
    waiting = {
        name_of(pod) for pod in release.pods if status_of(pod).get("phase") in ("Pending", "Failed")
    }
    seen: set[str] = set()
    for event in release.events_of(*reasons):
        pod = (event.get("involvedObject") or {}).get("name", "")
        if pod in waiting and pod not in seen:
            seen.add(pod)
            yield event
