"""Why containers of a release end or are ended: memory, our own refusals, cards, probes, evictions.

Rules: a Release in, findings out. Does not ask a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from consilium.cli.cluster import last_words
from consilium.cli.cluster.objects import (
    Container,
    Object,
    component_of,
    condition,
    is_true,
    name_of,
    seconds,
    status_of,
)
from consilium.cli.cluster.release import Release, happened_at
from consilium.cli.cluster.why_pending import knob
from consilium.kernel.doctor import Finding, Level

NO_CARD: Final = re.compile(r"libcuda\.so\.1: cannot open|Failed to infer device type|NVML Shared Library Not Found|Found no NVIDIA driver|No CUDA GPUs are available|CUDA driver version is insufficient", re.IGNORECASE)  # fmt: skip
_OLD_GCS: Final = re.compile(r"Session name \S+ does not match persisted value", re.IGNORECASE)
_SHM: Final = re.compile(r"No space left on device.*(?:shm|/dev/shm)|(?:shm|/dev/shm).*No space left on device|unable to (?:open|allocate) shared memory|Bus error", re.IGNORECASE)  # fmt: skip
_CARD_MEMORY: Final = re.compile(r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|Free memory on device .* less than desired")  # fmt: skip
_NCCL_ENDED: Final = re.compile(r"Watchdog caught collective operation timeout|NCCL communicator was aborted|ncclSystemError|ncclUnhandledCudaError")  # fmt: skip
_NCCL_LAST: Final = re.compile(r"using nccl|NCCL INFO|backend=nccl|Bootstrap: Using", re.IGNORECASE)
NCCL_HANGS_S: Final = 300.0
"""A group of one box meets within seconds, one over nodes within a minute."""
RECENT_S: Final = 1800.0
"""What is older may be over."""
_KILLED: Final = 137
_SIGNALS: Final = (137, 143)
GPU_WAY_OUT: Final = "Set gpu.runtimeClassName: nvidia (k3s, and wherever nvidia is not containerd's default runtime), and see whether the node itself sees the card: nvidia-smi there. consilium doctor --cluster looks at all of it."
NCCL_WAY_OUT: Final = "Cards without NVLink behind an IOMMU: set workers[].env: {NCCL_P2P_DISABLE: '1'} and config.engine.extra_args.disable_custom_all_reduce: true; over nodes NCCL_SOCKET_IFNAME must name the network that joins them. workers[].env: {NCCL_DEBUG: INFO} says where it stops."

_LIBRARIES: Final = (
    ("no_gpu_in_pod", "GPUs", NO_CARD, "sees no card, though it was given one", GPU_WAY_OUT),
    ("old_gcs_state", "Ray", _OLD_GCS, "finds the state of an earlier Ray cluster in Redis and will not join it", "Nothing of ours keeps Ray's state in Redis; take gcsFaultToleranceOptions out, or end the cluster so that the operator clears it: kubectl -n {space} delete raycluster -l ray.io/originated-from-cr-name={service}"),
    ("little_shared_memory", "memory", _SHM, "has too little /dev/shm", "Raise workers[].sharedMemory (8Gi for engines over several cards), and its memory limit with it."),
    ("nccl_failed", "GPUs", _NCCL_ENDED, "finds that its cards do not reach each other", NCCL_WAY_OUT),
    ("card_memory", "GPUs", _CARD_MEMORY, "has a model that does not fit on its card", "consilium plan says what fits; lower config.engine.max_model_len, or take a quantized model."),
)  # fmt: skip
"""What libraries say: id, title, pattern, what it means, way out."""


def findings(release: Release) -> Iterator[Finding]:
    """Yield which containers ended badly, and who ended them."""
    yield from _nodes(release)
    yield from _evicted(release)
    yield from _ended(release)
    yield from _hanging(release)
    yield from _probes(release)
    yield from _jobs(release)
    yield from _cut(release)


def _ended(release: Release) -> Iterator[Finding]:
    by_probe = _ended_by_probe(release)
    for one in release.containers():
        if name_of(one.pod) in by_probe and one.ended.get("exitCode") in _SIGNALS:
            continue  # told by its probe
        if status_of(one.pod).get("reason") == "Evicted" or not one.failed:
            continue
        if one.is_running and one.status.get("ready") and not _just_now(release, one):
            continue  # it has come up since
        if component_of(one.pod) == "prefetch" and _job_of(release, one.pod):
            continue  # told by the Job
        yield _end(release, one)


def _just_now(release: Release, one: Container) -> bool:
    return release.now - seconds(one.ended.get("finishedAt")) < RECENT_S


def _end(release: Release, one: Container) -> Finding:
    pod, space = name_of(one.pod), release.namespace
    code = int(one.ended.get("exitCode", 1))
    log = release.said(pod, one.name) or str(one.ended.get("message", ""))
    times = int(one.status.get("restartCount", 0))
    again = f" ({times} times)" if times > 1 else ""
    if one.ended.get("reason") == "OOMKilled":
        limit = ((one.spec.get("resources") or {}).get("limits") or {}).get("memory", "the node's")
        shm = " /dev/shm counts too: see sharedMemory." if component_of(one.pod) == "worker" else ""
        return Finding("out_of_memory", "memory", Level.FAILURE, f"{one.name} of {pod} needed more than its {limit} of memory and was killed{again}", f"Raise {knob(one.pod)}.limits.memory.{shm} What is changed there needs the command that helm upgrade prints.")  # fmt: skip
    if found := by_log(release, f"{one.name} of {pod}", log):
        return found
    sentence = last_words.of_log(log, code)
    if sentence.code == "gpu_missing":
        return Finding("no_gpu_in_pod", "GPUs", Level.FAILURE, f"{one.name} of {pod}: {sentence.text}", GPU_WAY_OUT)  # fmt: skip
    if sentence.code:
        return Finding(sentence.code, "start", Level.FAILURE, f"{one.name} of {pod} refuses to start{again}: {sentence.text}", sentence.way_out)  # fmt: skip
    said = sentence.text or f"it said nothing; exit code {code}"
    killed = " (killed: by its liveness probe, or by the node for want of memory)" if code == _KILLED else ""  # fmt: skip
    return Finding("crash_loop", "start", Level.FAILURE, f"{one.name} of {pod} ends with {code}{killed}{again}: {said}", f"kubectl -n {space} logs {pod} -c {one.name} --previous --tail=50")  # fmt: skip


def by_log(release: Release, who: str, log: str) -> Finding | None:
    """Return what words of a library in a log or a traceback mean, or None.

    who  whose words they are, for the sentence
    """
    for id_, title, pattern, said, way_out in _LIBRARIES:
        if pattern.search(log):
            step = way_out.replace("{space}", release.namespace)
            step = step.replace("{service}", _service(release))
            return Finding(id_, title, Level.FAILURE, f"{who} {said}: {_line(pattern, log)}", step)
    return None


def _line(pattern: re.Pattern[str], log: str) -> str:
    return next((line.strip()[: last_words.WIDTH] for line in log.splitlines() if pattern.search(line)), "")  # fmt: skip


def _service(release: Release) -> str:
    return name_of(release.services[0]) if release.services else release.name


def _hanging(release: Release) -> Iterator[Finding]:
    is_waiting = not all(is_true(one, "Ready") for one in release.services)
    for one in release.containers():
        begun = seconds(((one.status.get("state") or {}).get("running") or {}).get("startedAt"))
        lines = [line for line in release.said(name_of(one.pod), one.name).splitlines() if line.strip()]  # fmt: skip
        is_late = one.is_running and is_waiting and release.now - begun > NCCL_HANGS_S  # fmt: skip
        if is_late and lines and _NCCL_LAST.search(lines[-1]):
            yield Finding("nccl_hangs", "GPUs", Level.WARNING, f"{name_of(one.pod)} has said nothing since its cards began to look for each other ({(release.now - begun) / 60:.0f} min after its start): {lines[-1].strip()[: last_words.WIDTH]}", NCCL_WAY_OUT)  # fmt: skip


def _ended_by_probe(release: Release) -> set[str]:
    """Return the pods of which the kubelet has just ended a container for its probe."""
    return {
        str((event.get("involvedObject") or {}).get("name"))
        for event in release.events_of("Killing")
        if re.search(r"failed (?:startup|liveness) probe", str(event.get("message", "")))
        and release.now - happened_at(event) < RECENT_S
    }


def _probes(release: Release) -> Iterator[Finding]:
    ended = _ended_by_probe(release)
    for pod in release.pods:
        if name_of(pod) in ended:
            busy = re.findall(r"[^\n]*(?:ownload|etching|Loading safetensors|torch\.compile|Capturing)[^\n]*", release.said(name_of(pod)))  # fmt: skip
            doing = f" It was at: {busy[-1].strip()[: last_words.WIDTH]}" if busy else ""
            yield Finding("probe_killed", "probes", Level.FAILURE, f"the kubelet ended a container of {name_of(pod)}, since its probe failed.{doing}", "Engines load inside of Ray, which has no such limit; fetch the model ahead (models.prefetch.enabled: true), and give the pod the cores it asks for. A node short of cores answers probes late.")  # fmt: skip


def _jobs(release: Release) -> Iterator[Finding]:
    for job in release.jobs:
        failed = condition(job, "Failed")
        is_over = failed.get("status") == "True"
        has_failed = status_of(job).get("failed") and not status_of(job).get("succeeded")
        if not (is_over or has_failed or _restarted(release, job)):
            continue
        said = _said_by(release, job)
        why = said.text or failed.get("message", "") or "it said nothing"
        yield Finding(
            "prefetch_failed",
            "models",
            Level.FAILURE if is_over else Level.WARNING,
            f"the Job {name_of(job)}, which fetches the models, {'has given up' if is_over else 'is trying again'}: {why}",
            f"{said.way_out} Then: kubectl -n {release.namespace} delete job {name_of(job)} and helm upgrade; what is fetched already stays.".strip(),
        )


def _restarted(release: Release, job: Object) -> bool:
    return not status_of(job).get("succeeded") and any(
        one.failed for one in release.containers() if _job_of(release, one.pod) == name_of(job)
    )


def _job_of(release: Release, pod: Object) -> str:
    owners = pod.get("metadata", {}).get("ownerReferences") or ()
    name = next((owner["name"] for owner in owners if owner.get("kind") == "Job"), "")
    return name if name in {name_of(job) for job in release.jobs} else ""


def _said_by(release: Release, job: Object) -> last_words.Sentence:
    for one in release.containers():
        if _job_of(release, one.pod) == name_of(job) and one.failed:
            log = release.said(name_of(one.pod), one.name) or str(one.ended.get("message", ""))
            if log:
                return last_words.of_log(log, int(one.ended.get("exitCode", 1)))
    return last_words.Sentence("", "")


def _evicted(release: Release) -> Iterator[Finding]:
    for pod in release.pods:
        status = status_of(pod)
        if status.get("reason") == "Evicted":
            said = str(status.get("message", ""))
            what = re.search(r"low on resource: ([\w-]+)|Usage of EmptyDir|ephemeral local storage usage exceeds", said)  # fmt: skip
            disk = "The node's disk is full: remove images and logs there (crictl rmi --prune), or raise sizeLimit of what grows." if what is None or what[1] != "memory" else f"Raise {knob(pod)}.requests.memory to what it uses, so that it is ended last."  # fmt: skip
            yield Finding("evicted", "node", Level.FAILURE, f"the node ended {name_of(pod)}: {said}", f"{disk} What is left of it: kubectl -n {release.namespace} delete pod {name_of(pod)}")  # fmt: skip


def _nodes(release: Release) -> Iterator[Finding]:
    used = {(pod.get("spec") or {}).get("nodeName") for pod in release.pods}
    for node in release.nodes:
        if name_of(node) not in used:
            continue
        ready = condition(node, "Ready")
        if ready and ready.get("status") != "True":
            yield Finding("node_gone", "node", Level.FAILURE, f"the node {name_of(node)} is not ready: {ready.get('message') or ready.get('reason')}", f"kubectl describe node {name_of(node)}; on it: systemctl status k3s (or kubelet). Pods there are given up after five minutes.")  # fmt: skip
        for kind in ("DiskPressure", "MemoryPressure", "PIDPressure"):
            if is_true(node, kind):
                yield Finding("node_pressure", "node", Level.WARNING, f"the node {name_of(node)} reports {kind}; pods are evicted there and new ones not taken", f"kubectl describe node {name_of(node)} shows what fills it; old images go by: crictl rmi --prune")  # fmt: skip


def _cut(release: Release) -> Iterator[Finding]:
    for event in release.events_of("FailedPreStopHook", "ExceededGracePeriod"):
        if release.now - happened_at(event) > RECENT_S:
            continue
        pod = (event.get("involvedObject") or {}).get("name", "")
        yield Finding("cut_short", "draining", Level.WARNING, f"{pod} was ended before its answers were: {event.get('message', '')}", "Raise drainSeconds and config.gateway.drain_s to the longest answer; the pod's grace follows them.")  # fmt: skip
        return
