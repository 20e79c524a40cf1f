"""The greeter, or another room, as a process beside a test: ports drawn free, a folder of its own, its log at hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from consilium.kernel.grpc_channel import Channel
from consilium.kernel.idempotent import methods
from consilium.kernel.ports import free_port
from consilium.kernel.principals import PRINCIPAL_KEY, TOKEN_KEY, Principal, sign
from consilium.kernel.rooms import Room
from tests.greeter.room import ROOM
from tests.waiting import LIMIT_S

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "of-this-test"


@dataclass
class Running:
    """One room. `start` again after its end, and it listens at the same addresses.

    stop_s  seconds that the greeter gets to end what it is doing; None = what its row says
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    process: subprocess.Popen[str] | None = None
    room: Room = ROOM
    stop_s: float | None = None

    def __post_init__(self) -> None:
        self.grpc, self.http, self.metrics = (free_port() for _ in range(3))
        (self.folder / "token").write_text(TOKEN)
        self.write_config()

    def write_config(self, **sections: Any) -> None:
        places = {
            "grpc": f"127.0.0.1:{self.grpc}",
            "http": f"http://127.0.0.1:{self.http}",
            "metrics": f"http://127.0.0.1:{self.metrics}",
        }
        tree = {"services": {self.room.name: places}, **self.config, **sections}
        (self.folder / "config.json").write_text(json.dumps(tree))

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> Running:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("CONSILIUM_")
        }
        module = ("-m", self.room.module)
        if self.stop_s is not None:
            module = ("-m", "tests.greeter.patient", str(self.stop_s))
        paths = [str(REPOSITORY / "services"), str(REPOSITORY)]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, *module, "--config", str(self.folder / "config.json"),
                 *self.words],
                cwd=self.folder,
                env={
                    **inherited,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "CONSILIUM_ROOMS": "tests.greeter.room:ROOM",
                },
                stdout=log,
                stderr=log,
                text=True,
            )  # fmt: skip
        return self

    async def until_up(self) -> Running:
        async with httpx.AsyncClient(timeout=LIMIT_S) as client, asyncio.timeout(LIMIT_S):
            while True:
                assert self.process is not None
                assert self.process.poll() is None, self.log
                try:
                    if (await client.get(self.url("/healthz", self.metrics))).status_code == 200:
                        return self
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.02)

    def tell(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Return the exit code."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, LIMIT_S)

    def url(self, path: str, port: int | None = None) -> str:
        return f"http://127.0.0.1:{port or self.http}{path}"

    def headers(self, principal: Principal | None = None) -> dict[str, str]:
        """Return what a request to its HTTP carries."""
        signed = {PRINCIPAL_KEY: sign(principal, TOKEN, time.time())} if principal else {}
        return {TOKEN_KEY: TOKEN, **signed}

    def channel(self, **options: Any) -> Channel:
        """Return a channel as the house makes it."""
        return Channel(
            f"127.0.0.1:{self.grpc}",
            name=self.room.name,
            **{"token": TOKEN, "idempotent": methods([self.room]), **options},
        )

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
