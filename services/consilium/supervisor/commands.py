"""Command lines and environments of the parts, as data.

Knows what Redis, Ray and Serve are told, and every port that Ray and Serve would otherwise choose themselves. Does not start anything.
Sources: ray 2.60 `scripts/scripts.py`, `serve/_private/constants.py`, `serve/_private/haproxy.py`; notes on each variable stand beside it.
"""

from __future__ import annotations

import getpass
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consilium.kernel.ports import INGRESS_PORTS
from consilium.supervisor.ray_variables import EVERYWHERE

OBJECT_STORE_BYTES: Final = 128 * 1024 * 1024
"""Plasma: nothing large is passed through it, bodies are streamed."""


def redis_conf(*, port: int, password: str, folder: Path) -> str:
    """Return the configuration of our own Redis: loopback, password, append-only file on."""
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {port}",
            f"requirepass {password}",
            f'dir "{folder}"',
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "daemonize no",
            "protected-mode yes",
            'logfile ""',
            "maxmemory-policy noeviction",
            "",
        )
    )


def redis_command(binary: Path, conf: Path) -> tuple[str, ...]:
    """Return the command of our own Redis."""
    return (str(binary), str(conf))


def ray_command(*, ports: Mapping[str, int], temp: Path) -> tuple[str, ...]:
    """Return the command of Ray's head: `ray start --head --block` with every port named, less three processes that nothing here uses."""
    named = json.dumps({name: port for name, port in ports.items() if name.startswith("ray")})
    return python_command(
        "consilium.engine.ray_head",
        "--ports",
        named,
        "--temp",
        str(temp),
        "--object-store-bytes",
        str(OBJECT_STORE_BYTES),
    )


def prepared_command(module: str, *words: str, until: tuple[Path, ...]) -> tuple[str, ...]:
    """Return the command that imports a module at once and runs it when the files are there."""
    waits = [word for path in until for word in ("--until", str(path))]
    return python_command("consilium.supervisor.imported_early", *waits, module, *words)


def python_command(module: str, *words: str) -> tuple[str, ...]:
    """Return the command of one of our own modules."""
    return (sys.executable, "-m", module, *words)


def cluster_environment(
    *, ports: Mapping[str, int], temp: Path, sockets: Path, token: str, mark: str, metrics: Path
) -> dict[str, str]:
    """Return the variables that every process of the cluster gets on top of the user's own.

    temp     Ray's temp folder
    sockets  folder of the sockets between an engine's processes; its path may have some 70 bytes
    """
    serve = temp / "serve"
    http, grpc = ports["serve_ingress_http"], ports["serve_ingress_grpc"]
    return {
        **EVERYWHERE,
        "CONSILIUM_MARK": mark,  # by this a process of a crashed cluster is known again
        "SPT_NOENV": "1",  # setproctitle would overwrite /proc/PID/environ, and with it the mark
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "RAY_ADDRESS": f"127.0.0.1:{ports['ray']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(temp),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # the gateway is drained by us; this one waits 30 s for nothing
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports["haproxy_stats"]),  # 8404
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports["haproxy_metrics"]),  # 9101
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports["serve_fallback_http"]),  # 8500
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports["serve_fallback_grpc"]),  # 9500
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http),  # 30000
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http + INGRESS_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc),  # 40000
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc + INGRESS_PORTS),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(
            serve / "haproxy.cfg"
        ),  # /tmp/haproxy-serve, shared by all users
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(serve / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(serve / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(serve),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(serve / "server-state"),
        "VLLM_RPC_BASE_PATH": str(sockets),  # /tmp, where those of a killed engine stay
    }


def temporary_files(folder: Path) -> dict[str, str]:
    """Return the variables by which what engines leave in /tmp when they are killed lies in a folder that ends with Ray.

    What torch has compiled is worth keeping, and stays where it would be without this.
    """
    user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
    return {
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / f"torchinductor_{user}"),
    }
