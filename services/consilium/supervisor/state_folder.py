"""The state folder of one cluster: where its files lie, and cluster.json, which says what runs.

Knows paths and the shape of cluster.json. Does not know processes, ports or configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from consilium.kernel.ending_files import CLOSING, DRAINING
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.private_file import write_private

FORMAT: Final = 1
_SESSION: Final = "session_latest"


@dataclass(frozen=True, slots=True)
class Pid:
    """One process. `started` is its start time in seconds since boot, so that a number used again is not mistaken for it."""

    pid: int
    started: float


@dataclass(frozen=True, slots=True)
class PartRecord:
    """One part of the cluster, as status shows it.

    state     waiting, starting, up, silent (it was up, and does not answer), crashed, failed, stopping, stopped
    since     Unix seconds of the last change
    address   where it listens, or empty
    detail    one line for people: progress, last error
    restarts  how often it was started again
    vital     whether the cluster is nothing without it
    words     what it is, in a few words
    log       the part whose log tells of it; empty = it has its own
    down      Unix seconds since which it has not been up, whatever was tried meanwhile; 0 while it is up
    why       why it was lost last; empty once it is up
    """

    state: str = "waiting"
    since: float = 0.0
    address: str = ""
    detail: str = ""
    restarts: int = 0
    pids: tuple[Pid, ...] = ()
    vital: bool = True
    words: str = ""
    log: str = ""
    down: float = 0.0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a start was given up: a code of the error catalogue with its fields, and the part."""

    code: str
    sentence: str
    next_step: str
    part: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """cluster.json.

    phase       starting, up, degraded (up, but one of the parts is not), stopping, stopped, failed
    boot        name of the run of the machine in which the process numbers are valid
    supervisor  the process that looks after the parts
    left        other processes that belong to the cluster, as last seen
    mark        value of CONSILIUM_MARK in the environment of every process of this cluster
    addresses   openai, http, grpc, metrics, redis, ray
    key         local admin API key
    end_s       seconds that the parts may take to end, after the running answers have
    executors   how each executor is, by the gateway's word: ready, starting, down, silent; unknown while the gateway does not answer
    """

    state: str
    phase: str
    mark: str
    model: str
    started: float
    boot: str
    supervisor: Pid
    addresses: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    key: str = ""
    redis_prefix: str = "csl"
    parts: dict[str, PartRecord] = field(default_factory=dict)
    left: tuple[Pid, ...] = ()
    failure: Failure | None = None
    end_s: float = 60.0
    executors: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def with_part(self, name: str, record: PartRecord) -> Cluster:
        """Return the same cluster with one part replaced."""
        return replace(self, parts={**self.parts, name: record})


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths under one state folder."""

    root: Path

    @property
    def cluster(self) -> Path:
        """cluster.json, 0600."""
        return self.root / "cluster.json"

    @property
    def config(self) -> Path:
        """config.json, the resolved tree, 0600."""
        return self.root / "config.json"

    @property
    def secret(self) -> Path:
        """The pepper of key hashes, 32 random bytes as hex, 0600."""
        return self.root / "secret"

    @property
    def token(self) -> Path:
        """The internal token, by which the services of the cluster know each other, 0600."""
        return self.root / "token"

    @property
    def logs(self) -> Path:
        """Folder of <part>.log."""
        return self.root / "logs"

    @property
    def redis(self) -> Path:
        """Data of our own Redis."""
        return self.root / "redis"

    @property
    def models(self) -> Path:
        """Models made here or downloaded."""
        return self.root / "models"

    @property
    def metrics(self) -> Path:
        """Prometheus multi-process files of this run."""
        return self.root / "metrics"

    @property
    def lock(self) -> Path:
        """File that the supervisor holds locked while it lives."""
        return self.root / "supervisor.lock"

    @property
    def looked(self) -> Path:
        """File whose time says when the supervisor looked after the parts last."""
        return self.root / "looked"

    @property
    def draining(self) -> Path:
        """File that is there once the cluster is to be stopped: parts that claim work look for it beside config.json, and take none any more."""
        return self.root / DRAINING

    @property
    def closing(self) -> Path:
        """File that is there a moment later: the gateway looks for it beside config.json, and refuses new requests."""
        return self.root / CLOSING

    @property
    def ray_temp(self) -> Path:
        """Ray's temp folder: short, because the paths of its sockets may have 107 bytes only. Ray opens it to everybody; the one above it is ours alone."""
        digest = hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:8]
        return Path("/tmp") / f"csl-{digest}" / "r"  # noqa: S108  the folder is made with 0700 and its owner is checked

    @property
    def ray_logs(self) -> Path:
        """Folder that holds session_latest/logs: Ray's own while there is one, else where the last ones are kept."""
        return self.ray_temp if (self.ray_temp / _SESSION).exists() else self.root / "ray"

    @property
    def engine_sockets(self) -> Path:
        """Folder of the sockets between an engine's processes: short for the same reason."""
        return self.ray_temp.parent / "v"

    def log(self, part: str) -> Path:
        """Return the log file of one part."""
        return self.logs / f"{part}.log"

    def make(self) -> None:
        """Create the folders, private to the user. Raises ConsiliumError(config_invalid) if that is not possible."""
        try:
            for folder in (self.root, self.logs, self.redis, self.models, self.metrics):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as err:
            raise self._refused(err) from err

    def make_secrets(self) -> None:
        """Draw the secret and the internal token where there are none; both are kept over restarts. Call it with the lock held. Raises as `make` does."""
        try:
            for path in (self.secret, self.token):
                if not path.exists():
                    write_private(path, secrets.token_hex(32) + "\n")
        except OSError as err:
            raise self._refused(err) from err

    def _refused(self, err: OSError) -> ConsiliumError:
        reason = f"the folder {self.root} cannot be made or written ({err.strerror or err}); name another one with --state DIR"
        return ConsiliumError("config_invalid", key="state", reason=reason)

    def make_ray_temp(self) -> None:
        """Create Ray's temp folder, ours alone, and an empty one for the sockets of engines. Call it while no Ray runs.

        Raises ConsiliumError(state_damaged) if it belongs to somebody else.
        """
        folder = self.ray_temp.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise ConsiliumError(
                "state_damaged", path=str(folder), reason="it belongs to another user"
            )
        folder.chmod(0o700)
        self.ray_temp.mkdir(exist_ok=True)
        self.forget_engine_sockets()
        self.engine_sockets.mkdir(exist_ok=True)

    def forget_engine_sockets(self) -> None:
        """Remove the sockets that killed engines have left. Call it while no Ray runs."""
        shutil.rmtree(self.engine_sockets, ignore_errors=True)

    def clear_ray_temp(self) -> None:
        """Move Ray's last logs into the state folder and leave nothing in /tmp. Call it when no process of the cluster runs. Never raises."""
        temp, logs = self.ray_temp.parent, self.ray_temp / _SESSION / "logs"
        try:
            if temp.is_symlink() or temp.stat().st_uid != os.getuid():
                return
            if logs.is_dir():
                kept = self.root / "ray"
                shutil.rmtree(kept, ignore_errors=True)
                (kept / _SESSION).mkdir(parents=True, mode=0o700)
                shutil.move(logs.resolve(), kept / _SESSION / "logs")
        except OSError:  # such as a full disk: then they stay where they are
            return
        shutil.rmtree(temp, ignore_errors=True)

    def read_cluster(self) -> Cluster | None:
        """Return what cluster.json says, or None if there is none. Raises ConsiliumError(state_damaged)."""
        try:
            text = self.cluster.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as err:
            raise ConsiliumError(
                "state_damaged", path=str(self.cluster), reason=err.strerror or str(err)
            ) from err
        try:
            return parse_cluster(_dict(json.loads(text)))
        except (ValueError, TypeError, KeyError) as err:
            raise ConsiliumError(
                "state_damaged",
                str(err),
                path=str(self.cluster),
                reason="it is not readable as JSON of this version",
            ) from err

    def write_cluster(self, cluster: Cluster) -> None:
        """Write cluster.json in one step, 0600."""
        write_private(self.cluster, json.dumps(asdict(cluster), indent=1) + "\n")


def parse_cluster(raw: dict[str, object]) -> Cluster:
    """Return the cluster that `asdict` wrote. Raises ValueError, TypeError or KeyError if it is another thing."""
    if raw.get("format") != FORMAT:
        msg = f"format {raw.get('format')!r}"
        raise ValueError(msg)
    known = dict(raw)
    known["supervisor"] = _pid(known["supervisor"])
    known["left"] = tuple(_pid(item) for item in _list(known["left"]))
    known["failure"] = Failure(**_dict(known["failure"])) if known["failure"] else None  # type: ignore[arg-type]
    known["parts"] = {name: _part(_dict(part)) for name, part in _dict(known["parts"]).items()}
    return Cluster(**known)  # type: ignore[arg-type]


def _part(raw: dict[str, object]) -> PartRecord:
    return PartRecord(**{**raw, "pids": tuple(_pid(item) for item in _list(raw["pids"]))})  # type: ignore[arg-type]


def _pid(raw: object) -> Pid:
    fields = _dict(raw)
    return Pid(int(fields["pid"]), float(fields["started"]))  # type: ignore[call-overload,arg-type]


def _dict(raw: object) -> dict[str, object]:
    if not isinstance(raw, dict):
        msg = f"expected an object, not {type(raw).__name__}"
        raise TypeError(msg)
    return raw


def _list(raw: object) -> list[object]:
    if not isinstance(raw, list):
        msg = f"expected a list, not {type(raw).__name__}"
        raise TypeError(msg)
    return raw
