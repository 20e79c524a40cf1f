"""The page of the supervisor, over real sockets: the states of the parts and the pages of the rooms."""

from __future__ import annotations

import httpx
from tests.component.supervisor.running import Site

from consilium.kernel.ports import free_port
from consilium.supervisor import probes
from consilium.supervisor.metrics_page import MetricsServer


def test_the_metrics_page_says_which_parts_are_up(site: Site) -> None:
    port = free_port()
    server = MetricsServer(
        host="127.0.0.1",
        port=port,
        folder=site.folder.metrics,
        ray_url="http://127.0.0.1:9/metrics",
    )
    server.look_at(lambda: {"ray": True, "redis": False})
    server.start()
    try:
        status, body = probes.http_get(f"http://127.0.0.1:{port}/metrics", timeout_s=10)
        assert status == 200
        assert b'consilium_part_up{part="ray"} 1' in body
        assert b'consilium_part_up{part="redis"} 0' in body
        assert probes.http_get(f"http://127.0.0.1:{port}/other")[0] == 404
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
            packed = client.get("/metrics", headers={"accept-encoding": "gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.content == body
            head = client.head("/metrics", headers={"accept-encoding": "identity"})
            assert head.status_code == 200
            assert int(head.headers["content-length"]) == len(body)
            assert head.content == b""
    finally:
        server.stop()
