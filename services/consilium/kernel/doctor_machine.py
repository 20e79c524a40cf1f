"""Checks of the machine itself: Python, memory, limits of a container, disks, the state folder.

Knows Linux. Does not know GPUs, engines or clusters.
"""

from __future__ import annotations

import locale
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from consilium.kernel.doctor import (
    Fact,
    Facts,
    Row,
    Subject,
    Verdict,
    failure,
    note,
    ok,
    warning,
)

PYTHON: Final = (3, 11)
"""The Python that the engine's wheels are made for."""
LEAST_DISK_BYTES: Final = 512 * 1024 * 1024
"""Room for logs, Redis and the demo model."""
LITTLE_DISK_BYTES: Final = 4 * 2**30
LITTLE_RAM_BYTES: Final = 2 * 2**30
LITTLE_SHM_BYTES: Final = 2**30
LEAST_DESCRIPTORS: Final = 1024
FEW_DESCRIPTORS: Final = 8192
"""A running answer has three in the gateway."""
SKEW_S: Final = 60.0
GIB: Final = 2**30
_SHM: Final = Path("/dev/shm")  # noqa: S108  measured, not written
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "glusterfs", "ceph"}
)


@dataclass(frozen=True, slots=True)
class System:
    """Of which kind the machine is."""

    python: tuple[int, int]
    os: str
    machine: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of something: how many there are, and how many are free."""

    total: int
    free: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What this process may take.

    memory       bytes of its control group, or None without a limit
    cpus         cores by the quota of its control group, or None without one
    cores        cores that it may run on
    descriptors  open files: the most that it may ask for
    """

    memory: int | None
    cpus: float | None
    cores: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Folder:
    """The state folder, or the nearest folder above it that is there.

    is_there     the state folder itself
    writable     a file can be made
    mine         it belongs to this user
    filesystem   such as ext4 or nfs4
    newest       Unix seconds of the newest file in it, 0 where there is none
    """

    path: str
    is_there: bool
    writable: bool
    mine: bool
    filesystem: str
    newest: float
    now: float


SYSTEM: Final = Fact(
    "system",
    "The system",
    lambda _: System(
        (sys.version_info[0], sys.version_info[1]),
        platform.system(),
        platform.machine(),
        locale.getpreferredencoding(do_setlocale=False),
    ),
)


def _memory(_subject: Subject) -> Room:
    found = psutil.virtual_memory()
    return Room(found.total, found.available)


MEMORY: Final = Fact("memory", "The memory", _memory)


def _disk(path: Path) -> Room:
    found = shutil.disk_usage(path)
    return Room(found.total, found.free)


SHARED_MEMORY: Final[Fact[Room | None]] = Fact(
    "shared_memory", "The shared memory", lambda _: _disk(_SHM) if _SHM.is_dir() else None
)
ENVIRONMENT_DISK: Final = Fact(
    "environment_disk", "The disk of the Python environment", lambda _: _disk(Path(sys.prefix))
)
STATE_DISK: Final = Fact(
    "state_disk", "The disk of the state folder", lambda subject: _disk(_nearest(subject.state))
)


def _limits(_subject: Subject) -> Limits:
    return Limits(
        memory=_group_memory(),
        cpus=_group_cpus(),
        cores=len(os.sched_getaffinity(0)),
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
    )


LIMITS: Final = Fact("limits", "The limits of this process", _limits)


def _folder(subject: Subject) -> Folder:
    root = subject.state
    place = _nearest(root)
    files = list(root.glob("*")) if root.is_dir() else []
    return Folder(
        path=str(root),
        is_there=root.is_dir(),
        writable=os.access(place, os.W_OK | os.X_OK),
        mine=not root.exists() or root.stat().st_uid == os.getuid(),
        filesystem=filesystem_of(place, Path("/proc/mounts").read_text(encoding="utf-8")),
        newest=max((file.lstat().st_mtime for file in files), default=0.0),
        now=time.time(),
    )


FOLDER: Final = Fact("state_folder", "The state folder", _folder)


def _nearest(path: Path) -> Path:
    """Return a folder, or the nearest above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def filesystem_of(path: Path, mounts: str) -> str:
    """Return the file system that a path lies on, by the text of /proc/mounts; empty where it does not say."""
    best, kind = -1, ""
    real = path.resolve()
    for line in mounts.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        place = Path(words[1].replace("\\040", " "))
        if real.is_relative_to(place) and len(place.parts) >= best:
            best, kind = len(place.parts), words[2]
    return kind


def _group_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        text = _text(file)
        if text.isdigit():
            return int(text)
    return None


def _group_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    quota, _, period = _text(root / "cpu.max").partition(" ")
    if not quota:
        quota = _text(root / "cpu" / "cpu.cfs_quota_us")
        period = _text(root / "cpu" / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def gib(size: float) -> str:
    """Return bytes in GiB, for a sentence."""
    return f"{size / GIB:.1f} GiB"


def _python(facts: Facts) -> Verdict:
    seen = facts[SYSTEM].python
    said = {"seen": f"{seen[0]}.{seen[1]}", "wanted": f"{PYTHON[0]}.{PYTHON[1]}"}
    return ok(**said) if seen == PYTHON else failure(**said)


def _architecture(facts: Facts) -> Verdict:
    system = facts[SYSTEM]
    said = {"seen": f"{system.os} on {system.machine}"}
    if system.os != "Linux" or system.machine not in {"x86_64", "aarch64"}:
        return failure(**said)
    return ok(**said)


def _encoding(facts: Facts) -> Verdict:
    seen = facts[SYSTEM].encoding
    is_utf8 = seen.lower().replace("-", "").replace("_", "") == "utf8"
    return ok(seen=seen) if is_utf8 else warning(seen=seen)


def _ram(facts: Facts) -> Verdict:
    room = facts[MEMORY]
    limit = facts[LIMITS].memory
    total = room.total if limit is None else min(room.total, limit)
    said = {"free": gib(min(room.free, total)), "total": gib(total)}
    return ok(**said) if min(room.free, total) >= LITTLE_RAM_BYTES else warning(**said)


def _group(facts: Facts) -> Verdict:
    limit, total = facts[LIMITS].memory, facts[MEMORY].total
    said = {"limit": gib(limit or 0), "total": gib(total)}
    return note(**said) if limit is not None and limit < total else ok(**said)


def _quota(facts: Facts) -> Verdict:
    limits = facts[LIMITS]
    said = {"quota": f"{limits.cpus or 0:g}", "cores": limits.cores}
    return warning(**said) if limits.cpus is not None and limits.cpus < limits.cores else ok(**said)


def _shm(facts: Facts) -> Verdict:
    room = facts[SHARED_MEMORY]
    if room is None:
        return failure(size="not there")
    said = {"size": f"{room.total / 2**20:.0f} MiB large with {room.free / 2**20:.0f} MiB free"}
    return ok(**said) if room.free >= LITTLE_SHM_BYTES else warning(**said)


def _descriptors(facts: Facts) -> Verdict:
    seen = facts[LIMITS].descriptors
    said = {"seen": seen, "wanted": FEW_DESCRIPTORS}
    if seen == resource.RLIM_INFINITY:
        return ok(**{**said, "seen": "no limit"})
    if seen < LEAST_DESCRIPTORS:
        return failure(**said)
    return ok(**said) if seen >= FEW_DESCRIPTORS else warning(**said)


def _disk_room(fact: Fact[Room]) -> Callable[[Facts], Verdict]:
    def test(facts: Facts) -> Verdict:
        free = facts[fact].free
        if free < LEAST_DISK_BYTES:
            return failure(free=gib(free))
        return ok(free=gib(free)) if free >= LITTLE_DISK_BYTES else warning(free=gib(free))

    return test


def _writable(facts: Facts) -> Verdict:
    folder = facts[FOLDER]
    return ok(path=folder.path) if folder.writable else failure(path=folder.path)


def _mine(facts: Facts) -> Verdict:
    folder = facts[FOLDER]
    return ok(path=folder.path) if folder.mine else failure(path=folder.path)


def _local(facts: Facts) -> Verdict:
    folder = facts[FOLDER]
    said = {"path": folder.path, "kind": folder.filesystem}
    return warning(**said) if folder.filesystem in _NETWORK else ok(**said)


def _in_time(facts: Facts) -> Verdict:
    folder = facts[FOLDER]
    ahead = folder.newest - folder.now
    return warning(ahead=f"{ahead:.0f} s") if ahead > SKEW_S else ok()


ROWS: Final = (
    Row(
        "python",
        "Python",
        (SYSTEM,),
        _python,
        "this is Python {seen}, and {wanted} is needed",
        "Make the environment again with 'make setup'.",
        "{seen}",
    ),
    Row(
        "architecture",
        "system",
        (SYSTEM,),
        _architecture,
        "this is {seen}, and the engine's wheels are made for Linux on x86_64 and aarch64",
        "Run the cluster on such a machine, and this command with --endpoint.",
        "{seen}",
    ),
    Row(
        "encoding",
        "text encoding",
        (SYSTEM,),
        _encoding,
        "texts are read and printed as {seen}, and some letters will be damaged",
        "Set LANG=C.UTF-8.",
        "{seen}",
    ),
    Row(
        "memory",
        "memory",
        (MEMORY, LIMITS),
        _ram,
        "{free} of {total} are free; the smallest model and the services need about 2 GiB",
        "End other programs.",
        "{free} of {total} free",
    ),
    Row(
        "container_memory",
        "memory of the container",
        (MEMORY, LIMITS),
        _group,
        "this container may take {limit} of the machine's {total}; a process that takes more is killed",
        "Raise the limit of the container if a model needs more.",
        when=lambda facts: facts[LIMITS].memory is not None,
    ),
    Row(
        "container_cpu",
        "cores of the container",
        (LIMITS,),
        _quota,
        "the container has a quota of {quota} cores and sees {cores}; engines on cores would start more threads than may run",
        "Set engine.cpu_cores to the quota, or bind the container to cores instead of giving it a quota.",
        when=lambda facts: facts[LIMITS].cpus is not None,
    ),
    Row(
        "shared_memory",
        "shared memory",
        (SHARED_MEMORY,),
        _shm,
        "its folder /dev/shm is {size}; Ray and engines with several ranks talk through it",
        "In Docker --shm-size=2g, in Kubernetes an emptyDir of medium Memory at /dev/shm; else end what fills it.",
        "{size}",
    ),
    Row(
        "descriptors",
        "open files",
        (LIMITS,),
        _descriptors,
        "a process may have {seen} files open at most; {wanted} are good for many answers at once",
        "Raise the hard limit (ulimit -Hn, LimitNOFILE in systemd).",
        "{seen}",
    ),
    Row(
        "environment_disk",
        "disk of the environment",
        (ENVIRONMENT_DISK,),
        _disk_room(ENVIRONMENT_DISK),
        "{free} are free where Python's packages lie; an update needs about 3 GiB",
        "Free some room.",
        "{free} free",
    ),
    Row(
        "state_disk",
        "disk of the state folder",
        (STATE_DISK,),
        _disk_room(STATE_DISK),
        "{free} are free where models, logs and Redis lie",
        "Free some room, or name another folder with --state DIR.",
        "{free} free",
    ),
    Row(
        "state_writable",
        "state folder",
        (FOLDER,),
        _writable,
        "{path} cannot be written",
        "Name another folder with --state DIR or CONSILIUM_STATE.",
        "{path}",
    ),
    Row(
        "state_owner",
        "owner of the state folder",
        (FOLDER,),
        _mine,
        "{path} belongs to another user",
        "Give it to this user (chown -R), or name another folder with --state DIR.",
        when=lambda facts: facts[FOLDER].is_there,
    ),
    Row(
        "state_filesystem",
        "file system of the state folder",
        (FOLDER,),
        _local,
        "{path} lies on {kind}, over a network: locks, SQLite and Redis are not safe there",
        "Name a folder on a disk of this machine with --state DIR.",
        "{kind}",
    ),
    Row(
        "clock",
        "clock",
        (FOLDER,),
        _in_time,
        "files in the state folder are {ahead} from the future: the clock went back, and keys and receipts may end too late",
        "Let the clock be set by NTP (timedatectl set-ntp true).",
        when=lambda facts: facts[FOLDER].newest > 0,
    ),
)
