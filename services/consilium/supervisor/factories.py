"""What each part is made of: its command, its probe, its files. The only place that knows Redis, Ray, engine and gateway from within.

Does not know which parts there are (parts.py), when one is started (states.py), and does not look after it (loop.py).
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.masking import shown_address
from consilium.kernel.private_file import write_private
from consilium.kernel.process import child_environment
from consilium.kernel.rooms import Room
from consilium.supervisor import commands, haproxy, probes
from consilium.supervisor.executors_seen import CORE, STARTING, executors_seen
from consilium.supervisor.gateway_link import ensure_local_key
from consilium.supervisor.haproxy_stand_in import StandIn
from consilium.supervisor.metrics_page import MetricsServer
from consilium.supervisor.model_step import PROGRESS_FILE, READY_FILE
from consilium.supervisor.part_process import ProbeWork, ProcessWork, Work
from consilium.supervisor.ray_logs import why_not_started
from consilium.supervisor.redis_server import choose_binary
from consilium.supervisor.state_folder import Cluster, StateFolder

LOOPBACK: Final = "127.0.0.1"
FAILED: Final = "engine_failed"
KEPT_SESSIONS: Final = 3
"""Ray's sessions whose logs are kept beside the one that is started."""
OTHERS_FIGURES: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Where the gateway's replicas and the engines put their figures together; a room has a page of its own, and would be counted twice."""
PROBE_S: Final = 2.0
"""Seconds that a room has to answer one question about its health."""


def derive(secret: str, purpose: str) -> str:
    """Return a password for one purpose, the same at every start of this state folder."""
    return hmac.new(secret.strip().encode(), purpose.encode(), hashlib.sha256).hexdigest()


def own_redis_url(secret: str, port: int) -> str:
    """Return the URL of our own Redis."""
    return f"redis://:{derive(secret, 'redis')}@127.0.0.1:{port}/0"


@dataclass(frozen=True, slots=True)
class Site:
    """What every part is made from."""

    folder: StateFolder
    cluster: Cluster
    config: Mapping[str, object]
    secret: str
    rooms: tuple[Room, ...] = ()

    @property
    def ray_ready(self) -> Path:
        """File that is there while Ray is up; Ray's head writes it."""
        return self.folder.ray_temp / "ray_current_cluster"

    @property
    def model_ready(self) -> Path:
        """File that is there once every model is on disk."""
        return self.folder.logs / READY_FILE

    def address(self, name: str) -> str:
        """Return one of the addresses in cluster.json."""
        return self.cluster.addresses[name]


def metrics_host(config: Mapping[str, object]) -> str:
    """Return the address that the metrics page listens on."""
    metrics = config.get("metrics")
    return str(metrics.get("host") or "127.0.0.1") if isinstance(metrics, Mapping) else "127.0.0.1"


def gateway_host(config: Mapping[str, object]) -> str:
    """Return the address that the public face listens on."""
    gateway = config.get("gateway")
    return str(gateway.get("host") or LOOPBACK) if isinstance(gateway, Mapping) else LOOPBACK


def public_redis(url: str) -> str:
    """Return host and port of a Redis URL, without the password."""
    return shown_address(url).rpartition("//")[2].partition("/")[0]


class CoreWork(ProbeWork):
    """The core is ready when one token came through the gateway. Afterwards the gateway's word is enough: an engine that it calls ready has generated one.

    Once the core was lost, a token is wanted again. It ends when Serve has given the engine up: then nobody would start it again.

    tell  hears the local key, and how the executors are, as fields of cluster.json
    """

    def __init__(self, site: Site) -> None:
        super().__init__(self._ask)
        self._site = site
        self._key = ""
        self._answered = self._was_ready = False
        self._given_up = ""
        self.tell: Callable[..., None] = lambda **_learned: None

    def start(self) -> None:
        """Forget what was known."""
        self._given_up = ""
        self._answered = self._was_ready = False
        super().start()

    def ended(self) -> int | None:
        """Return the exit code of an engine that does not start, once that is known."""
        return BY_CODE[FAILED].exit_code if self._given_up else None

    def tail(self) -> tuple[str, ...]:
        """Return why the engine does not start."""
        return (f"error: {self._given_up}",) if self._given_up else ()

    def _ask(self) -> tuple[bool, str, bool]:
        """Ask how the core is, and for a token where none came yet. A local key is made first, once."""
        if not self._key:
            self._key = ensure_local_key(
                self._site.folder,
                self._site.address("redis"),
                self._site.cluster.redis_prefix,
                self._site.cluster.key,
            )
            self.tell(key=self._key)
        if self._was_ready:
            seen = executors_seen(self._site.address("http"))
            self.tell(executors=seen.executors)
            if seen.why:
                self._answered = self._answered and not seen.heard
                return False, seen.why, seen.heard
            if self._answered:
                return True, "", True
        elif executors_seen(self._site.address("http")).executors.get(CORE) == STARTING:
            return (
                False,
                "",
                True,
            )  # a turn would be refused, and leave a receipt and a line in the log
        self._answered, code, why = probes.one_token(self._site.address("openai"), self._key)
        self._was_ready = self._was_ready or self._answered
        if self._answered:
            self.tell(executors=executors_seen(self._site.address("http")).executors)
        if code == FAILED:
            said = why_not_started(self._site.folder.ray_logs)
            self._given_up = (
                BY_CODE[FAILED].sentence.format(name="the core", reason=said) if said else why
            )
        return self._answered, why, True


class MetricsWork(ProbeWork):
    """The metrics page, served by the supervisor itself."""

    def __init__(self, server: MetricsServer) -> None:
        super().__init__(lambda: (True, ""))
        self._server = server
        self.look_at = server.look_at

    def start(self) -> None:
        """Listen. Raises OSError if the port is taken."""
        self._server.start()
        super().start()

    def stop(self, grace_s: float) -> None:
        """Stop listening."""
        self._server.stop()
        super().stop(grace_s)


def redis(site: Site) -> Work:
    """Return our own Redis, or the probe of the one that the configuration names."""
    url = site.address("redis")
    ready = _redis_probe(url)
    if "redis" not in site.cluster.ports:
        return ProbeWork(ready)
    conf = site.folder.redis / "redis.conf"
    write_private(
        conf,
        commands.redis_conf(
            port=site.cluster.ports["redis"],
            password=derive(site.secret, "redis"),
            folder=site.folder.redis,
        ),
    )
    return ProcessWork(
        commands.redis_command(choose_binary(), conf), log=site.folder.log("redis"), probe=ready
    )


def _redis_probe(url: str) -> probes.Probe:
    return lambda: probes.redis_ready(url)


def ray(site: Site) -> Work:
    """Return Ray's head. Until its HAProxy is there, another one says at the public port that the cluster is starting."""
    temp = site.folder.ray_temp
    root, host = site.folder.root, gateway_host(site.config)
    stand_in = StandIn(haproxy.program_of(root), root, host, site.cluster.ports["http"])

    def before() -> None:
        site.folder.make_ray_temp()
        (temp / "serve").mkdir(exist_ok=True, mode=0o700)
        forget_sessions(temp)
        site.ray_ready.unlink(missing_ok=True)
        stand_in.start()

    def after() -> None:
        stand_in.stop()
        site.ray_ready.unlink(missing_ok=True)
        site.folder.forget_engine_sockets()

    return ProcessWork(
        commands.ray_command(ports=site.cluster.ports, temp=temp),
        log=site.folder.log("ray"),
        environment=child_environment(commands.temporary_files(site.folder.engine_sockets)),
        probe=lambda: _ray_answers(site),
        before=before,
        after=after,
    )


def _ray_answers(site: Site) -> tuple[bool, str, bool]:
    """Ask Ray's two servers, once the head has said that it is up."""
    if not site.ray_ready.exists():
        return False, "", True
    servers = {"ray": "Ray's GCS", "ray_node_manager": "Ray's raylet"}
    for name, words in servers.items():
        if why := probes.http2_ready(site.cluster.ports[name], timeout_s=PROBE_S):
            return False, f"{words} does not answer ({why})", False
    return True, "", True


def model(site: Site) -> Work:
    """Return the task that makes or downloads the models."""
    progress = site.folder.logs / PROGRESS_FILE

    def ready() -> tuple[bool, str]:
        if site.model_ready.exists():
            return True, ""
        return False, progress.read_text(encoding="utf-8") if progress.exists() else ""

    def before() -> None:
        progress.unlink(missing_ok=True)
        site.model_ready.unlink(missing_ok=True)

    return ProcessWork(
        commands.python_command(
            "consilium.supervisor.model_step", "--state", str(site.folder.root)
        ),
        log=site.folder.log("model"),
        probe=ready,
        before=before,
    )


def engine(site: Site) -> Work:
    """Return the task that hands the engines to Ray."""
    work: ProcessWork

    def done() -> tuple[bool, str]:
        return work.ended() == 0, ""

    work = ProcessWork(
        commands.prepared_command(
            "consilium.engine.app",
            "deploy",
            "--config",
            str(site.folder.config),
            until=(site.ray_ready, site.model_ready),
        ),
        log=site.folder.log("engine"),
        probe=done,
    )
    return work


def gateway(site: Site) -> Work:
    """Return the task that hands the gateway to Ray; it is up when it answers."""
    url = f"{site.address('http')}/health"
    return ProcessWork(
        commands.python_command(
            "consilium.gateway.app", "deploy", "--config", str(site.folder.config)
        ),
        log=site.folder.log("gateway"),
        probe=lambda: probes.http_ready(url, PROBE_S),
    )


def metrics(site: Site) -> MetricsWork:
    """Return the Prometheus page: the gateway's figures, Ray's, and those of each room, from its own page."""
    server = MetricsServer(
        host=metrics_host(site.config),
        port=site.cluster.ports["metrics"],
        folder=site.folder.metrics,
        ray_url=f"http://{LOOPBACK}:{site.cluster.ports['ray_metrics']}/metrics",
        rooms={
            room.name: f"http://{LOOPBACK}:{site.cluster.ports[f'{room.name}_metrics']}/metrics"
            for room in site.rooms
        },
    )
    return MetricsWork(server)


def room_work(room: Room) -> Callable[[Site], Work]:
    """Return what makes the part of one room: a process that answers GET /healthz on its metrics port with 200 while it is well."""

    def make(site: Site) -> Work:
        url = f"http://{LOOPBACK}:{site.cluster.ports[f'{room.name}_metrics']}/healthz"
        timeout_s = min(PROBE_S, room.silent_s / 4)

        return ProcessWork(
            commands.python_command(room.module, "--config", str(site.folder.config)),
            log=site.folder.log(room.name),
            environment=child_environment({}, drop=lambda name: name == OTHERS_FIGURES),
            probe=lambda: probes.http_ready(url, timeout_s),
        )

    return make


def forget_sessions(temp: Path, kept: int = KEPT_SESSIONS) -> None:
    """Remove the logs of Ray's older sessions; their names begin with their time."""
    for folder in sorted(path for path in temp.glob("session_2*") if path.is_dir())[:-kept]:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (temp / "serve").glob("*/"):  # sockets of proxies that are gone
        shutil.rmtree(folder, ignore_errors=True)
