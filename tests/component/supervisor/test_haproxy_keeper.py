"""HAProxy with the keeper before it, under Ray's own class that starts, asks and reloads it; and what stands in while Ray's is not there."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.waiting import LIMIT_S, until_true

from consilium.kernel.origins import origins_of
from consilium.kernel.ports import free_port
from consilium.supervisor import haproxy, haproxy_keeper, haproxy_stand_in

HAPROXY = haproxy.binary()
pytestmark = [
    pytest.mark.skipif(HAPROXY is None, reason="no HAProxy here"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket has 107 bytes."""
    made = Path(tempfile.mkdtemp(prefix="csl-"))
    (made / "logs").mkdir()
    yield made
    shutil.rmtree(made)


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"here"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, *_args: object) -> None:
        """A killed HAProxy breaks its connections."""


@pytest.fixture
def replica() -> Iterator[int]:
    """What HAProxy sends requests to; its port."""
    server = Server(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def proxy(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Any, Any]]:
    """Yield Ray's HAProxy class, not started, and the module that it is from."""
    from ray.serve._private import haproxy as rays
    from ray.serve.config import HTTPOptions

    script = haproxy.write_start_script(folder, origins_of(None, "127.0.0.1"))[haproxy.VARIABLE]
    monkeypatch.setattr(rays, "RAY_SERVE_HAPROXY_BINARY_PATH", script)
    config = rays.HAProxyConfig(
        http_options=HTTPOptions(host="127.0.0.1", port=port),
        is_head=True,
        socket_path=str(folder / "n" / "admin.sock"),
        server_state_base=str(folder / "n"),
        server_state_file=str(folder / "n" / "server-state"),
        metrics_socket_path=str(folder / "n" / "metrics.sock"),
        metrics_port=free_port(),
        stats_port=free_port(),
        nbthread=1,
    )
    api = rays.HAProxyApi(cfg=config, config_file_path=str(folder / "n" / "haproxy.cfg"))
    try:
        yield api, rays
    finally:
        await api.stop()


def runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


async def has_gone(process: psutil.Process) -> None:
    await until_true(lambda: not runs(process))


def backends(rays: Any, port: int) -> dict[str, Any]:
    server = rays.ServerConfig(name="one", host="127.0.0.1", port=port)
    made = rays.BackendConfig(name="http-app", path_prefix="/", servers=[server], app_name="app")
    return {made.name: made}


async def answered(url: str) -> tuple[httpx.Response, float, list[object]]:
    """Return the first 200, the seconds until then, and what was seen before."""
    seen: list[object] = []
    begun = time.monotonic()
    async with httpx.AsyncClient(timeout=LIMIT_S) as http:
        while time.monotonic() - begun < LIMIT_S:
            try:
                reply = await http.get(url)
                if reply.status_code == 200:
                    return reply, time.monotonic() - begun, seen
                seen.append(reply.status_code)
            except httpx.HTTPError as error:
                seen.append(type(error).__name__)
            await asyncio.sleep(0.01)
    raise AssertionError(seen)


def is_told_to_come_back(reply: httpx.Response) -> bool:
    assert reply.status_code == 503, reply.text
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["retry-after"]) >= 1
    error = reply.json()["error"]
    return bool(error["code"] == "engine_starting" and error["message"])


async def test_killed_haproxy_is_back_at_once_and_ray_goes_on_as_before(
    folder: Path, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with proxy(folder, port, monkeypatch) as (api, rays):
        await api.start()
        async with httpx.AsyncClient(timeout=60) as http:
            assert is_told_to_come_back(await http.get(url))  # no route is known yet: no 404
        api.set_backend_configs(backends(rays, replica))
        await api.reload()
        await answered(url)
        for _ in range(2):
            keeper = psutil.Process(api._proc.pid)
            (child,) = keeper.children()
            child.kill()
            await has_gone(child)
            reply, seconds, seen = await answered(url)
            print(f"back after {seconds:.2f} s; before: {seen}")
            assert reply.text == "here"
            assert set(seen) <= {"ConnectError", "ReadError", "RemoteProtocolError"}
            assert await api._get_running_pid() == api._proc.pid
            assert await api.is_running()
        await api.reload()  # Ray's new one takes over from the keeper's
        await answered(url)
        old = keeper
        await has_gone(old)
        assert psutil.Process(api._proc.pid).children()


async def test_what_ray_ends_is_gone_with_its_child(
    folder: Path, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with proxy(folder, port, monkeypatch) as (api, rays):
        api.set_backend_configs(backends(rays, replica))
        await api.start()
        (child,) = psutil.Process(api._proc.pid).children()
        await api.stop()
        await has_gone(child)


async def test_one_that_hangs_is_not_well_in_rays_eyes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(folder, free_port(), monkeypatch) as (api, _rays):
        await api.start()
        (child,) = psutil.Process(api._proc.pid).children()
        child.suspend()
        assert not await api.is_running()
        child.resume()
        assert await api.is_running()


async def test_a_configuration_that_haproxy_refuses_is_told_to_ray(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    async with proxy(folder, port, monkeypatch) as (api, _rays):
        api.cfg.balance_algorithm = "nonsense"
        with pytest.raises(RuntimeError, match="balance only supports"):
            await api.start()


async def test_the_port_is_never_closed_while_rays_haproxy_comes(
    folder: Path, replica: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/models"
    stand_in = haproxy_stand_in.StandIn(HAPROXY, folder, "127.0.0.1", port)
    stand_in.start()
    try:
        async with httpx.AsyncClient(timeout=60) as http:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    with suppress(httpx.ConnectError):
                        assert is_told_to_come_back(await http.get(url))
                        break
                    await asyncio.sleep(0.02)
        async with proxy(folder, port, monkeypatch) as (api, rays):
            api.set_backend_configs(backends(rays, replica))
            asking = asyncio.create_task(answered(url))
            await api.start()
            _, _, seen = await asking
            assert set(seen) <= {503}, seen
            number = int(haproxy_stand_in.number_file(folder).read_text())
            with suppress(psutil.NoSuchProcess):
                await has_gone(psutil.Process(number))
    finally:
        stand_in.stop()


def test_the_stand_in_ends_when_it_is_told_to(folder: Path) -> None:
    port = free_port()
    stand_in = haproxy_stand_in.StandIn(HAPROXY, folder, "127.0.0.1", port)
    stand_in.start()
    number = int(haproxy_stand_in.number_file(folder).read_text())
    stand_in.stop()
    assert not psutil.pid_exists(number)
    assert not haproxy_stand_in.number_file(folder).exists()


def keeper_in(folder: Path, binary: str = "haproxy") -> haproxy_keeper.Keeper:
    """Return a keeper that has not started anything."""
    config = folder / "haproxy.cfg"
    config.write_text(f"global\n    stats socket {folder}/admin.sock mode 660\n")
    return haproxy_keeper.Keeper(binary, "starting.json", folder / "none.pid", ["-f", str(config)])


def test_a_keeper_with_the_number_of_the_last_one_does_not_end_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pod whose container was started again the numbers come anew and the folder has stayed."""
    monkeypatch.setattr(haproxy_keeper, "_is_haproxy", lambda pid: pid > 0)
    (folder / "keeper").write_text(str(os.getpid()))
    assert keeper_in(folder)._others == []
    (folder / "keeper").write_text(str(os.getppid()))
    assert keeper_in(folder)._others == [os.getppid()]


def test_what_is_told_while_no_haproxy_runs_reaches_the_next_one(folder: Path) -> None:
    keeper = keeper_in(folder, "sleep")
    keeper._pass_on(signal.SIGTERM, None)
    child = keeper._start(["600"])
    assert child.wait(LIMIT_S) == -signal.SIGTERM
