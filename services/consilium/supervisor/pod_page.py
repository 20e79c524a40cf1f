"""The metrics page of a pod, in a container of its own: `python -m consilium.supervisor.pod_page --folder DIR --ray URL --listen HOST:PORT`.

GET /metrics joins the figures of the processes in this pod (gateway, engines) with Ray's; GET /healthz says that the page is there. What is slow or dead is left
out, so that a scrape always ends. The gauges of a process that has ended are taken out by those that follow it, where it ran. Knows where the figures come from. Does not know what they mean.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from consilium.supervisor.metrics_page import MetricsServer


def main(argv: list[str] | None = None) -> int:
    """Serve the page until a signal."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.pod_page")
    parser.add_argument("--folder", type=Path, required=True, help="PROMETHEUS_MULTIPROC_DIR")
    parser.add_argument("--ray", required=True, metavar="URL", help="the page of Ray's agent")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    chosen = parser.parse_args(argv)
    host, _, port = chosen.listen.rpartition(":")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = MetricsServer(
        host=host,
        port=int(port),
        folder=chosen.folder,
        ray_url=chosen.ray,
        sees_processes=False,  # a container of its own has numbers of its own
    )
    server.start()
    ended.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
