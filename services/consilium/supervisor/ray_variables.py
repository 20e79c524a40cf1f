"""What Ray, Serve and vLLM are told by their environment, on one machine and in a pod: `python -m consilium.supervisor.ray_variables` writes the pods' for the chart.

    EVERYWHERE  the same in both
    POD         places in a pod, which has its own network and folders; on one machine commands.py names drawn ports and the state folder

They must be set before Ray starts: workers inherit them from the raylet. Data, and nothing else.
"""

from __future__ import annotations

import sys
from typing import Final

from consilium.supervisor.haproxy_rules import BUFFER_BYTES

EVERYWHERE: Final = {
    "PYTHONHASHSEED": "0",  # keys of the prefix cache are equal in every process
    "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15: engines and gateways would yield to everything else on the machine
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep CUDA_VISIBLE_DEVICES as it is for actors without a GPU
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "consilium.gateway.serve_bodies.middlewares",  # long bodies are not read ahead
    "RAY_SERVE_HAPROXY_NBTHREAD": "2",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # 10, and three must fail: half a minute until a proxy that is gone is replaced
    "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(BUFFER_BYTES),  # 16384; see haproxy_rules.py
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "-1",  # 4 MiB; gateway.max_body_bytes is the limit, whatever it says
}
RUN: Final = "/run/consilium"
"""A pod's own folder for what lives as long as its processes; /tmp and the home folder may be written too, and nothing else."""
POD: Final = {
    "HOME": "/home/consilium",
    "PROMETHEUS_MULTIPROC_DIR": f"{RUN}/metrics",
    "RAY_SERVE_HAPROXY_BINARY_PATH": "/usr/local/bin/consilium-haproxy",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{RUN}/haproxy.cfg",
    "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{RUN}/admin.sock",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{RUN}/metrics.sock",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": RUN,
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{RUN}/server-state",
    "VLLM_RPC_BASE_PATH": RUN,
}


def lines() -> str:
    """Return the variables of a pod, NAME=VALUE, one in a line."""
    return "".join(f"{name}={value}\n" for name, value in sorted({**EVERYWHERE, **POD}.items()))


if __name__ == "__main__":
    sys.stdout.write(lines())
