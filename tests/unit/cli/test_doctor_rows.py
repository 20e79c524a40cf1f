"""Every row of every room, once firing and once silent, with facts that are given; and the whole, as a program reads it."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest

from consilium.cli import doctor, doctor_start
from consilium.cli.config_tree import ConsiliumConfig
from consilium.cli.doctor_start import HubSeen
from consilium.engine import doctor as engine
from consilium.engine.doctor import Answer, CacheSeen, Installed
from consilium.gateway import doctor as gateway
from consilium.gateway.doctor import RedisSeen
from consilium.gpu_metrics import doctor as figures
from consilium.gpu_metrics.doctor import ExporterSeen, NvmlSeen
from consilium.kernel import doctor_machine as machine
from consilium.kernel.doctor import Facts, Finding, Level, Subject, failure, judge, ok, warning
from consilium.kernel.doctor_machine import Folder, Limits, Room, System
from consilium.kernel.gpus import Gpu, Seen
from consilium.lora_router import doctor as adapters
from consilium.lora_router.backends.registry_seen import RegistrySeen, VersionSeen
from consilium.lora_router.doctor import FolderSeen, LibrarySeen, SourcesSeen, StoreSeen
from consilium.lora_router.ports import Proof
from consilium.supervisor import doctor as cluster
from consilium.supervisor.doctor import ClusterSeen, GatewaySeen, Port
from consilium.supervisor.state_folder import Cluster, PartRecord, Pid

GIB = 2**30
CARD = Gpu(0, "GPU-1", "RTX 4090", 24 * GIB, 23 * GIB, 8.9, "581.10")
FAR = {"url": "https://me:hush@far/v1", "model": "m", "key_env": "NO_SUCH_KEY_HERE"}


def running(**over: Any) -> ClusterSeen:
    parts = {"engine": PartRecord("up"), "gateway": PartRecord("up")}
    plain = {
        "state": "/s",
        "phase": "up",
        "mark": "m",
        "model": "demo",
        "started": 0.0,
        "boot": "b",
        "supervisor": Pid(1, 1.0),
        "parts": parts,
    }
    return ClusterSeen(Cluster(**{**plain, **over}), "", alive=True, family=9, locked=True)


def replica(**over: Any) -> dict[str, Any]:
    return {"id": "a", "versions": {"roles": "1"}, "refused": "", "pending": [], **over}


def gateway_seen(*replicas: dict[str, Any], status: int = 200) -> GatewaySeen:
    return GatewaySeen(status, {"executors": {"core": "starting"}}, {"replicas": list(replicas)})


FOLDER = Folder("/s", True, True, True, "ext4", 1000.0, 2000.0)
HEALTHY: dict[Any, Any] = {
    machine.SYSTEM: System((3, 11), "Linux", "x86_64", "UTF-8"),
    machine.MEMORY: Room(64 * GIB, 32 * GIB),
    machine.LIMITS: Limits(None, None, 16, 1 << 20),
    machine.SHARED_MEMORY: Room(32 * GIB, 32 * GIB),
    machine.ENVIRONMENT_DISK: Room(900 * GIB, 100 * GIB),
    machine.STATE_DISK: Room(900 * GIB, 100 * GIB),
    machine.FOLDER: FOLDER,
    engine.GPUS: Seen((CARD,)),
    engine.INSTALLED: Installed(gpu=True, cpu=False, cuda="13.0"),
    engine.REMOTES: {},
    engine.CACHE: CacheSeen(GIB, 20 * GIB, 900 * GIB),
    gateway.REDIS: None,
    doctor_start.MODEL: ok(),
    doctor_start.FIT: ok(),
    doctor_start.ADAPTERS: ok(),
    adapters.STORE: StoreSeen(GIB, 50 * GIB, 900 * GIB),
    adapters.FOLDER: FolderSeen(True),
    adapters.SOURCES: SourcesSeen(1),
    adapters.LIBRARY: LibrarySeen(
        RegistrySeen(1, "", (VersionSeen("a:1", "1", Proof.OK, 0.0),)), replicas=2
    ),
    doctor_start.REACHED: HubSeen((), ()),
    cluster.CLUSTER: ClusterSeen(),
    cluster.PORTS: (Port("gateway.port", 8000, False, ""),),
    cluster.GATEWAY: None,
    figures.NVML: NvmlSeen(True, True, True, ("0000:01:00.0",), ("0000:01:00.0",)),
    figures.EXPORTER: None,
}
REDIS = RedisSeen("redis://h:1", "", "8.1.0", "noeviction", 0, True)


def found(given: dict[Any, Any], tree: dict[str, Any] | None = None, **subject: Any) -> Any:
    """Return id -> finding with these facts over those of a healthy machine."""
    whole = ConsiliumConfig.model_validate(tree or {})
    examined = Subject(**{"tree": whole, "state": Path("/s"), **subject})
    facts = Facts(examined, {**HEALTHY, **given})
    return {one.id: one for one in judge(doctor.all_rows(), facts)}


def test_on_a_healthy_machine_all_is_well() -> None:
    findings = found({})
    assert {one.level for one in findings.values()} == {Level.OK}
    assert doctor.summary(tuple(findings.values())).endswith("checks: all well.")


def test_a_healthy_cluster_is_well() -> None:
    findings = found(
        {
            cluster.CLUSTER: running(),
            cluster.GATEWAY: gateway_seen(replica(), replica(id="b")),
            gateway.REDIS: REDIS,
            figures.EXPORTER: ExporterSeen(True, 0.4),
        }
    )
    assert {one.level for one in findings.values()} == {Level.OK}
    assert {"gpu_exporter", "gpu_card_down", "gpu_xid"} <= set(findings)
    assert {"parts", "gateway", "config_taken", "config_alike", "redis_answers"} <= set(findings)


def limits(**over: Any) -> Limits:
    return Limits(**{"memory": None, "cpus": None, "cores": 16, "descriptors": 1 << 20, **over})


def folder(**over: Any) -> Folder:
    plain = {name: getattr(FOLDER, name) for name in Folder.__slots__}
    return Folder(**{**plain, **over})


UP = {cluster.CLUSTER: running()}
FIRING: list[tuple[str, Level, dict[Any, Any], str]] = [
    ("python", Level.FAILURE, {machine.SYSTEM: System((3, 12), "Linux", "x86_64", "UTF-8")}, "3.12"),
    ("architecture", Level.FAILURE, {machine.SYSTEM: System((3, 11), "Darwin", "arm64", "UTF-8")}, "Darwin"),
    ("encoding", Level.WARNING, {machine.SYSTEM: System((3, 11), "Linux", "x86_64", "ANSI_X3.4-1968")}, "ANSI"),
    ("memory", Level.WARNING, {machine.MEMORY: Room(64 * GIB, GIB)}, "1.0 GiB of 64.0 GiB"),
    ("container_memory", Level.NOTE, {machine.LIMITS: limits(memory=8 * GIB)}, "8.0 GiB"),
    ("container_cpu", Level.WARNING, {machine.LIMITS: limits(cpus=2.5)}, "2.5 cores and sees 16"),
    ("shared_memory", Level.WARNING, {machine.SHARED_MEMORY: Room(64 << 20, 64 << 20)}, "64 MiB"),
    ("shared_memory", Level.FAILURE, {machine.SHARED_MEMORY: None}, "not there"),
    ("descriptors", Level.WARNING, {machine.LIMITS: limits(descriptors=4096)}, "4096"),
    ("descriptors", Level.FAILURE, {machine.LIMITS: limits(descriptors=256)}, "256"),
    ("environment_disk", Level.WARNING, {machine.ENVIRONMENT_DISK: Room(9 * GIB, GIB)}, "1.0 GiB"),
    ("state_disk", Level.FAILURE, {machine.STATE_DISK: Room(9 * GIB, 1 << 20)}, "0.0 GiB"),
    ("state_writable", Level.FAILURE, {machine.FOLDER: folder(writable=False)}, "/s"),
    ("state_owner", Level.FAILURE, {machine.FOLDER: folder(mine=False)}, "another user"),
    ("state_filesystem", Level.WARNING, {machine.FOLDER: folder(filesystem="nfs4")}, "nfs4"),
    ("clock", Level.WARNING, {machine.FOLDER: folder(newest=5600.0)}, "3600 s"),
    ("gpu_driver", Level.NOTE, {engine.GPUS: Seen((), "no NVIDIA driver is installed here")}, "no NVIDIA"),
    ("gpu_driver", Level.WARNING, {engine.GPUS: Seen((), "the NVIDIA driver did not answer within 4 s")}, "4 s"),
    ("gpu_driver_version", Level.FAILURE, {engine.GPUS: Seen((Gpu(0, driver_version="570.124.06"),))}, "580.65.06"),
    ("engine_lane", Level.WARNING, {engine.INSTALLED: Installed(gpu=False, cpu=True)}, "run on cores"),
    ("engine_lane", Level.FAILURE, {engine.INSTALLED: Installed(gpu=False, cpu=False)}, "no build"),
    ("engine_lane", Level.FAILURE, {engine.GPUS: Seen((), "no NVIDIA driver")}, "no engine can start"),
    ("redis_answers", Level.FAILURE, {gateway.REDIS: RedisSeen("redis://h:1", "refused")}, "refused"),
    ("redis_version", Level.FAILURE, {gateway.REDIS: RedisSeen("h", "", "6.2.1")}, "6.2.1"),
    ("redis_eviction", Level.WARNING, {gateway.REDIS: RedisSeen("h", "", "8", "allkeys-lru")}, "allkeys-lru"),
    ("redis_persistence", Level.WARNING, {gateway.REDIS: RedisSeen("h", "", "8", "", 0, False)}, "append-only"),
    ("model", Level.FAILURE, {doctor_start.MODEL: failure(sentence="no such", way_out="x")}, "no such"),
    ("fit", Level.WARNING, {doctor_start.FIT: warning(sentence="tight", way_out="x")}, "tight"),
    ("adapters", Level.WARNING, {doctor_start.ADAPTERS: warning(sentence="'a' fits nowhere", way_out="x")}, "fits nowhere"),
    ("adapter_cache", Level.WARNING, {engine.CACHE: CacheSeen(21 * GIB, 20 * GIB, 900 * GIB)}, "21.0 GiB of the 20 GiB"),
    ("adapter_cache", Level.WARNING, {engine.CACHE: CacheSeen(GIB, 20 * GIB, GIB // 2)}, "0.5 GiB free"),
    ("adapter_store", Level.WARNING, {adapters.STORE: StoreSeen(46 * GIB, 50 * GIB, 900 * GIB)}, "46.0 GiB of the 50 GiB"),
    ("adapter_store", Level.WARNING, {adapters.STORE: StoreSeen(GIB, 50 * GIB, GIB // 2)}, "0.5 GiB free"),
    ("adapter_sources", Level.WARNING, {adapters.SOURCES: SourcesSeen(2, ("adapters.a.path: /gone",))}, "/gone"),
    ("adapter_folder", Level.FAILURE, {adapters.FOLDER: FolderSeen(True, (("/s/lora_router", "written"),))}, "/s/lora_router cannot be written by this user"),
    ("adapter_registry", Level.FAILURE, {adapters.LIBRARY: LibrarySeen(RegistrySeen(9))}, "has the version 9"),
    ("adapter_registry", Level.FAILURE, {adapters.LIBRARY: LibrarySeen(RegistrySeen(1, "file is not a database"))}, "not a database"),
    ("adapter_files", Level.FAILURE, {adapters.LIBRARY: LibrarySeen(RegistrySeen(1, "", (VersionSeen("a:1", "1", Proof.OK, 0.0),)), lost=("a:1",))}, "a:1"),
    ("adapters_configured", Level.WARNING, {adapters.LIBRARY: LibrarySeen(RegistrySeen(1), refused=2)}, "2 of them are not as the configuration says"),
    ("adapter_damaged", Level.WARNING, {adapters.LIBRARY: LibrarySeen(RegistrySeen(1), aside=("3f9c",))}, "3f9c"),
    ("adapter_proofs", Level.WARNING, {adapters.LIBRARY: LibrarySeen(RegistrySeen(1, "", (VersionSeen("a:1", "1", Proof.DEGENERATE, 0.0),)), unsound=("a:1 (degenerate)",), replicas=1)}, "a:1 (degenerate)"),
    ("hub", Level.FAILURE, {doctor_start.REACHED: HubSeen(("a/b",), ("a/b",), "no route")}, "a/b"),
    ("hub", Level.NOTE, {doctor_start.REACHED: HubSeen(("a/b",), (), "no route")}, "no route"),
    ("gpu_memory", Level.WARNING, {engine.GPUS: Seen((Gpu(0, "", "X", 24 * GIB, 9 * GIB, 8.9, "590"),))}, "9.0 of 24.0"),
    ("cluster_record", Level.FAILURE, {cluster.CLUSTER: ClusterSeen(damage="cluster.json: no")}, "cluster.json"),
    ("leftovers", Level.WARNING, {cluster.CLUSTER: ClusterSeen(running().cluster, family=4)}, "4 processes"),
    ("lock", Level.WARNING, {cluster.CLUSTER: ClusterSeen(locked=True)}, "lock"),
    ("parts", Level.FAILURE, {cluster.CLUSTER: running(phase="degraded", parts={"jobs": PartRecord("crashed", detail="no disk")})}, "jobs is crashed (no disk)"),
    ("parts", Level.NOTE, {cluster.CLUSTER: running(phase="starting")}, "starting"),
    ("restarts", Level.WARNING, {cluster.CLUSTER: running(parts={"ray": PartRecord("up", restarts=3)})}, "ray 3 x"),
    ("ports", Level.FAILURE, {cluster.PORTS: (Port("metrics.port", 9090, True, "prometheus (pid 7)"),)}, "prometheus"),
    ("usual_port", Level.NOTE, {cluster.PORTS: (Port("gateway.port", 8000, False, "python (pid 7)"),)}, "8000"),
    ("gateway", Level.FAILURE, {**UP, cluster.GATEWAY: gateway_seen(status=503)}, "core is starting"),
    ("gateway", Level.FAILURE, {**UP, cluster.GATEWAY: GatewaySeen(0, {}, {})}, "does not answer"),
    ("config_taken", Level.FAILURE, {**UP, cluster.GATEWAY: gateway_seen(replica(refused="not JSON"))}, "not JSON"),
    ("config_alike", Level.WARNING, {**UP, cluster.GATEWAY: gateway_seen(replica(), replica(versions={"roles": "2"}))}, "2 versions"),
    ("gpu_nvml", Level.FAILURE, {figures.NVML: NvmlSeen(module=True)}, "libnvidia-ml.so.1"),
    ("gpu_nvml", Level.WARNING, {figures.NVML: NvmlSeen(True, True)}, "nvidia-ml-py"),
    ("gpu_lost", Level.FAILURE, {figures.NVML: NvmlSeen(True, True, True, ("0000:01:00.0", "0000:02:00.0"), ("0000:01:00.0",))}, "0000:02:00.0"),
    ("gpu_exporter", Level.FAILURE, {figures.EXPORTER: ExporterSeen(False, 80.0, 2)}, "80 s old, 2 readers"),
    ("gpu_exporter", Level.FAILURE, {figures.EXPORTER: ExporterSeen(False)}, "no figure yet"),
    ("gpu_card_down", Level.FAILURE, {figures.EXPORTER: ExporterSeen(True, 1.0, 0, ("GPU-2",))}, "GPU-2"),
    ("gpu_xid", Level.WARNING, {figures.EXPORTER: ExporterSeen(True, 1.0, recent={"GPU-2": ["79"]})}, "GPU-2: 79"),
    ("config_pending", Level.WARNING, {**UP, cluster.GATEWAY: gateway_seen(replica(pending=["engine.seats"]))}, "engine.seats"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "level", "given", "words"), FIRING)
def test_a_row_fires(name: str, level: Level, given: dict[Any, Any], words: str) -> None:
    finding = found(given)[name]
    assert finding.level is level
    assert words in finding.sentence
    assert finding.way_out


@pytest.mark.parametrize(
    ("name", "tree", "words"),
    [
        (
            "adapter_slots",
            {"adapters": {"sport": {"path": "x"}}},
            "4 slots for adapters of rank 16",
        ),
        ("remote_keys", {"executors": {"far": FAR}}, "executors.far.key_env (NO_SUCH_KEY_HERE)"),
        (
            "embedding_key",
            {
                "embedding": {
                    "backend": "openai",
                    "url": "http://h/v1",
                    "model": "m",
                    "key_env": "NO_SUCH_KEY_HERE",
                }
            },
            "NO_SUCH_KEY_HERE",
        ),
        ("open_face", {"gateway": {"auth": False, "host": "0.0.0.0"}}, "0.0.0.0"),
    ],
)
def test_a_row_about_the_configuration_fires(name: str, tree: dict[str, Any], words: str) -> None:
    finding = found({}, tree)[name]
    assert finding.level in {Level.NOTE, Level.WARNING, Level.FAILURE}
    assert words in finding.sentence


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(0, "timed out"), "timed out"),
        (Answer(401), "refuses the key"),
        (Answer(503), "HTTP 503"),
    ],
)
def test_a_remote_executor_that_does_not_answer(answer: Answer, words: str) -> None:
    finding = found({engine.REMOTES: {"far": answer}}, {"executors": {"far": FAR}})[
        "remote_answers"
    ]
    assert finding.level is Level.WARNING
    assert words in finding.sentence
    assert "hush" not in finding.sentence
    well = found({engine.REMOTES: {"far": Answer(404)}}, {"executors": {"far": FAR}})
    assert well["remote_answers"].level is Level.OK


def test_a_gpu_that_is_asked_for_and_not_there_fails() -> None:
    given = {engine.GPUS: Seen((), "no NVIDIA driver is installed here")}
    assert found(given, {"topology": {"device": "gpu"}})["gpu_driver"].level is Level.FAILURE


def test_a_configuration_that_is_not_valid_is_told_and_the_rest_is_looked_at() -> None:
    findings = found({}, tree=None, refusal="engine.max_num_seq: there is no such key")
    assert findings["configuration"].level is Level.FAILURE
    assert findings["python"].level is Level.OK


def test_every_row_is_tested_and_is_whole() -> None:
    rows = doctor.all_rows()
    ids = [row.id for row in rows]
    assert len(ids) == len(set(ids))
    elsewhere = {
        "adapter_slots",
        "remote_keys",
        "embedding_key",
        "open_face",
        "remote_answers",
        "configuration",
    }
    assert set(ids) == {name for name, *_ in FIRING} | elsewhere
    for row in rows:
        for text in (row.sentence, row.way_out, row.fine):
            assert list(string.Formatter().parse(text)) is not None
        assert not row.title.endswith(".")


def test_the_summary_counts() -> None:
    made = [
        Finding("a", "a", Level.FAILURE, ""),
        Finding("b", "b", Level.WARNING, ""),
        Finding("c", "c", Level.WARNING, ""),
        Finding("d", "d", Level.OK, ""),
    ]
    assert doctor.summary(made) == "4 checks: 1 failure, 2 warnings."


def test_file_systems_are_told_by_the_longest_mount() -> None:
    mounts = "/dev/a / ext4 rw 0 0\nnas:/x /mnt/my\\040nas nfs4 rw 0 0\n"
    assert machine.filesystem_of(Path("/mnt/my nas/state"), mounts) == "nfs4"
    assert machine.filesystem_of(Path("/mnt"), mounts) == "ext4"
    assert machine.filesystem_of(Path("/mnt"), "") == ""


def test_reading_the_facts_of_the_machine_takes_no_time(tmp_path: Path) -> None:
    subject = Subject(None, tmp_path / "not" / "there")
    assert not machine.FOLDER.read(subject).is_there
    assert machine.STATE_DISK.read(subject).free > 0
    assert machine.LIMITS.read(subject).cores >= 1
