"""The page of the supervisor, over real sockets: the states of the parts and the pages of the rooms."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tests.component.supervisor.running import Site
from tests.waiting import sooner_than, until

from consilium.kernel.ports import free_port
from consilium.supervisor import metrics_page, probes
from consilium.supervisor.metrics_page import PROCESSES, RAY, MetricsServer
from consilium.supervisor.metrics_sources import PATIENCE_S, Sources, at


class Slow(BaseHTTPRequestHandler):
    """Answers after a minute, far later than anybody asks for."""

    def do_GET(self) -> None:
        time.sleep(60.0)

    def log_message(self, *_: object) -> None:
        return


class Quick(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"# TYPE greetings_total counter\ngreetings_total 3\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()


def test_the_metrics_page_says_which_parts_are_up(site: Site) -> None:
    with serving(Quick) as ray:
        port = free_port()
        server = MetricsServer(
            host="127.0.0.1",
            port=port,
            folder=site.folder.metrics,
            ray_url=ray,
        )
        server.look_at(lambda: {"ray": True, "redis": False})
        server.start()
        try:
            status, body = probes.http_get(f"http://127.0.0.1:{port}/metrics", timeout_s=60)
            assert status == 200
            assert b'consilium_part_up{part="ray"} 1' in body
            assert b'consilium_part_up{part="redis"} 0' in body
            assert probes.http_get(f"http://127.0.0.1:{port}/other")[0] == 404
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", verify=False, timeout=60
            ) as client:
                packed = client.get("/metrics", headers={"accept-encoding": "gzip"})
                assert packed.headers["content-encoding"] == "gzip"
                assert packed.content == body
                head = client.head("/metrics", headers={"accept-encoding": "identity"})
                assert head.status_code == 200
                assert int(head.headers["content-length"]) == len(body)
                assert head.content == b""
        finally:
            server.stop()


def test_the_page_has_those_of_the_rooms_and_a_slow_or_dead_one_holds_nobody_up(site: Site) -> None:
    dead = f"http://127.0.0.1:{free_port()}/metrics"
    with serving(Slow) as slow, serving(Quick) as quick:
        server = MetricsServer(
            host="127.0.0.1",
            port=free_port(),
            folder=site.folder.metrics,
            ray_url=dead,
            rooms={"slow": slow, "greeter": quick, "dead": dead},
        )
        server.look_at(lambda: {"redis": True, "slow": True, "greeter": True, "dead": False})
        patient(server, 0.5)
        with sooner_than(60.0):
            page = server.page()
        until(lambda: 'consilium_part_up{part="greeter"} 1' in server.page())
        again = server.page()
    for text in (page, again):
        assert 'consilium_part_up{part="redis"} 1' in text
        assert 'consilium_part_up{part="slow"} 0' in text
        assert 'consilium_part_up{part="dead"} 0' in text
    assert 'greetings_total{part="greeter"} 3' in again
    assert 'consilium_part_up{part="greeter"} 1' in again


def test_two_who_ask_at_once_both_get_the_pages_of_the_rooms() -> None:
    class Steady(Quick):
        def do_GET(self) -> None:
            time.sleep(0.3)
            super().do_GET()

    with serving(Steady) as url, ThreadPoolExecutor(4) as pool:
        pages = Sources({"greeter": at(url, 60.0)}, patience_s=60.0)
        found = list(pool.map(lambda _: pages.get(), range(4)))
    assert all("greetings_total 3" in given["greeter"].page for given in found)


class Moody(BaseHTTPRequestHandler):
    """Answers like Ray's agent while it is well, and else reads the question and says nothing."""

    hangs = threading.Event()
    well = threading.Event()
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.hangs.is_set():
            self.well.wait(100)
        tail = ',otel_scope_name="ray",otel_scope_version=""'
        body = (
            "# HELP ray_tasks Tasks.\n# TYPE ray_tasks gauge\n"
            f'ray_tasks{{State="RUNNING"{tail}}} {self.asked}\n'
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


class Silent(BaseHTTPRequestHandler):
    """Reads the question and says nothing."""

    def do_GET(self) -> None:
        time.sleep(100)

    def log_message(self, *_: object) -> None:
        return


def patient(server: MetricsServer, patience_s: float) -> None:
    """Let it wait for the pages that long, and for one that hangs longer than a test lasts."""
    for source in server._sources._each.values():
        source._patience_s = patience_s
    server._sources._patience_s = patience_s


def age_of(page: str, source: str) -> float:
    begin = f'consilium_metrics_source_age_seconds{{source="{source}"}} '
    return float(next(line for line in page.splitlines() if line.startswith(begin)).split(" ")[1])


def test_a_ray_agent_that_hangs_costs_the_page_its_age_and_nothing_else(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_page, "at", lambda url: at(url, 100.0))
    with serving(Moody) as url:
        server = MetricsServer(
            host="127.0.0.1", port=free_port(), folder=site.folder.metrics, ray_url=url
        )
        server.look_at(lambda: {"redis": True})
        patient(server, 60.0)
        fresh = server.page()
        assert 'ray_tasks{State="RUNNING"} 1' in fresh, "what all samples have alike is left out"
        assert age_of(fresh, RAY) == 0.0
        Moody.hangs.set()
        patient(server, 0.5)
        page = server.page()
        patient(server, 60.0)
        with sooner_than(60.0, "it is waited for again"):
            rest = server.page()
        assert Moody.asked == 2, "who owes an answer is not asked again"
        for text in (page, rest):
            assert 'ray_tasks{State="RUNNING"} 1' in text
            assert 'consilium_part_up{part="redis"} 1' in text
            assert age_of(text, RAY) >= 0.5
        Moody.hangs.clear()
        Moody.well.set()
        until(lambda: age_of(server.page(), RAY) == 0.0)
        assert 'ray_tasks{State="RUNNING"} 1' not in server.page()


def test_the_page_of_a_pod_is_not_held_up_either(tmp_path: Path) -> None:
    port = free_port()
    words = ["--folder", str(tmp_path), "--listen", f"127.0.0.1:{port}"]
    page = f"http://127.0.0.1:{port}/metrics"
    with serving(Silent) as url:
        pod = subprocess.Popen(
            [sys.executable, "-m", "consilium.supervisor.pod_page", *words, "--ray", url]
        )
        try:
            until(lambda: probes.port_listens(port))
            with sooner_than(60.0):
                first = probes.http_get(page, timeout_s=90)
                status, body = probes.http_get(page, timeout_s=90)
            assert (first[0], status) == (200, 200)
            assert age_of(body.decode(), RAY) >= PATIENCE_S, "it has never said anything"
            until(lambda: age_of(probes.http_get(page, timeout_s=90)[1].decode(), PROCESSES) == 0.0)
        finally:
            pod.terminate()
            assert pod.wait(60) == 0


def test_a_page_that_nobody_gives_any_more_is_not_shown_for_ever() -> None:
    now = [0.0]
    words: list[str | None] = ["a 1\n"]

    def ask() -> str | None:
        if words[0] == "broken":
            raise ValueError
        return words[0]

    sources = Sources({"one": ask}, clock=lambda: now[0])
    assert sources.get()["one"].page == "a 1\n"
    words[0] = "broken"
    now[0] = 100.0
    given = sources.get()["one"]
    assert (given.page, given.age_s, given.is_late) == ("a 1\n", 100.0, True)
    now[0] = 400.0
    assert sources.get()["one"].page == ""
    words[0] = "a 2\n"
    assert sources.get()["one"].page == "a 2\n"
    words[0] = None
    assert sources.get()["one"].page == "", "who is gone says nothing any more"
