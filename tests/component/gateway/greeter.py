"""The greeter of tests/greeter as a process of its own, for a gateway to stand before."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.greeter.room import ROOM
from tests.waiting import LIMIT_S, sooner_than

from consilium.gateway.forwarding import Reached
from consilium.kernel.principals import DEFAULT_TENANT, TOKEN_KEY

TOKEN = "internal-token-of-a-test"
STOP_S = 90.0
"""Far longer than a test takes: what still runs is waited for, and seen by that."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Greeter:
    """One process, at ports that it keeps over restarts."""

    folder: Path
    grpc: int
    http: int
    process: subprocess.Popen[bytes] | None = None
    sections: dict[str, object] = field(default_factory=dict)

    @property
    def reached(self) -> Reached:
        return Reached(ROOM, f"127.0.0.1:{self.grpc}", f"http://127.0.0.1:{self.http}")

    @property
    def files(self) -> Path:
        """Where it keeps what the tenant of this folder's keys has sent."""
        kept = self.folder / "greeter" / DEFAULT_TENANT
        kept.mkdir(parents=True, exist_ok=True)
        return kept

    def start(self) -> None:
        config = self.folder / "config.json"
        config.write_text(json.dumps({"greeter": {"word": "Hello"}, **self.sections}))
        (self.folder / "token").write_text(TOKEN)
        self.process = subprocess.Popen(
            [
                sys.executable,
                *("-m", "tests.greeter.patient", str(STOP_S + 30), "--config", str(config)),
                *("--listen", f"127.0.0.1:{self.grpc}", "--http", f"127.0.0.1:{self.http}"),
            ],
            env={**os.environ, "CONSILIUM_STATE": str(self.folder)},
        )
        url, until = f"http://127.0.0.1:{self.http}/v1/greeter/whoami", time.monotonic() + LIMIT_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(url, headers={TOKEN_KEY: TOKEN}, timeout=LIMIT_S).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.02)
        raise AssertionError("the greeter did not start")

    def ends_idle(self) -> None:
        """End it, and hold that nothing runs in it: what did would be waited for."""
        with sooner_than(STOP_S, "a call still ran"):
            self.process.terminate()
            self.process.wait(STOP_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def open_greeter(folder: Path) -> Greeter:
    """Return one that answers."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Greeter(folder, free_port(), free_port())
    made.start()
    return made
