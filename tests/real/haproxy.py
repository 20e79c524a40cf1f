"""HAProxy as `up` lets Ray start it: the file that Ray's own code writes, and our rules in it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from consilium.kernel.origins import Origins
from consilium.kernel.ports import free_port
from consilium.supervisor import haproxy, haproxy_rules
from tests.waiting import until


@dataclass
class Front:
    """A running HAProxy. `log` is where it tells Ray of each request."""

    port: int
    config: Path
    log: socket.socket

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[str]:
        found = []
        with suppress(BlockingIOError):
            while True:
                found.append(self.log.recv(65536).decode())
        return found

    def answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/x").status_code > 0
        return False


@contextmanager
def front_of(folder: Path, state: Path, origins: Origins, behind: int) -> Iterator[Front]:
    """Start an HAProxy.

    folder  Ray's own; its path has no spaces
    state   where our rules lie
    behind  port of the gateway's replica, or 0 for none
    """
    with ExitStack() as stack:
        log = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        log.bind(str(folder / "log.sock"))
        log.setblocking(False)
        port, *others = (free_port() for _ in range(3))
        config = as_ray_writes(folder, port, *others, behind)
        (script,) = haproxy.write_start_script(state, origins).values()
        process = subprocess.Popen([script, "-db", "-f", str(config)])
        stack.callback(process.wait, 60)
        stack.callback(process.kill)
        front = Front(port, config, log)
        until(front.answers, why="HAProxy did not start")
        yield front


def as_ray_writes(folder: Path, port: int, stats: int, metrics: int, server: int) -> Path:
    """Write the file that Ray's own code writes for one gateway with one replica; none without a `server`."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_enabled=True,
        metrics_socket_path=str(folder / "log.sock"),
        bufsize=haproxy_rules.BUFFER_BYTES,
        stats_port=stats,
        metrics_port=metrics,
        has_received_routes=True,
        has_received_servers=True,
        is_head=True,
        http_options=HTTPOptions(host="127.0.0.1", port=port),
    )
    servers = [ServerConfig("replica", "127.0.0.1", server)] if server else []
    backend = BackendConfig(
        "http-gateway",
        "/",
        app_name="gateway",
        servers=servers,
        http_health_check_path="/healthz",
    )
    file = folder / "haproxy.cfg"
    HAProxyApi(config, {"http-gateway": backend}, str(file))._generate_config_file_internal()
    return file
