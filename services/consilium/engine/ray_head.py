"""The head of a Ray cluster on one machine, without what Consilium never uses: `python -m consilium.engine.ray_head --ports JSON --temp DIR`.

The same as `ray start --head --block`, less three processes that cost seconds of a small machine's start and 300 MB of its memory: the dashboard (its API
server is started even when it is off), the Ray client server and the autoscaler's monitor. Ray's own private classes are used for that; tests/engine holds them
against the installed version. Does not know Serve or engines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from ray._private import services
from ray._private import utils as ray_utils
from ray._private.node import Node
from ray._private.parameter import RayParams

ADDRESS_FILE: Final = "ray_current_cluster"
_POLL_S: Final = 0.5


class Head(Node):  # type: ignore[misc]  # Ray is seen as Any
    """A head node without the dashboard's API server."""

    def start_api_server(self, **_options: Any) -> None:
        """Start nothing: metrics come from the node's agent, and nobody opens the dashboard."""


def start(
    *,
    ports: dict[str, int],
    temp: str,
    object_store_bytes: int,
    resources: dict[str, float] | None = None,
) -> Head:
    """Start the head's processes and return when the raylet has registered."""
    parameters = RayParams(
        node_ip_address=services.get_node_ip_address(),
        gcs_server_port=ports["ray"],
        object_manager_port=ports["ray_object_manager"],
        node_manager_port=ports["ray_node_manager"],
        dashboard_agent_listen_port=ports["ray_agent_http"],
        metrics_agent_port=ports["ray_agent_grpc"],
        runtime_env_agent_port=ports["ray_runtime_env"],
        metrics_export_port=ports["ray_metrics"],
        min_worker_port=0,
        max_worker_port=0,
        object_store_memory=object_store_bytes,
        temp_dir=temp,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        resources=resources,
    )
    node = Head(parameters, head=True, shutdown_at_exit=True, spawn_reaper=False)
    ray_utils.write_ray_address(node.gcs_address, temp)
    return node


def main(argv: list[str] | None = None) -> int:
    """Run the head until a signal, or until one of its processes ends. Returns 1 in that case."""
    parser = argparse.ArgumentParser(prog="python -m consilium.engine.ray_head")
    parser.add_argument("--ports", required=True, type=json.loads)
    parser.add_argument("--temp", required=True, type=Path)
    parser.add_argument("--object-store-bytes", type=int, required=True)
    chosen = parser.parse_args(argv)
    node = start(
        ports=chosen.ports, temp=str(chosen.temp), object_store_bytes=chosen.object_store_bytes
    )
    sys.stdout.write(f"Ray listens on {node.gcs_address}\n")
    sys.stdout.flush()
    while True:
        time.sleep(_POLL_S)
        ended = [(kind, process.returncode) for kind, process in node.dead_processes()]
        if ended:
            sys.stderr.write(f"Ray's processes ended: {ended}\n")
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return 1


if __name__ == "__main__":
    sys.exit(main())
