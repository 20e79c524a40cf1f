"""The adapters' room as a process of its own, and a replica that speaks its protocol: it says what it holds, and does what it is asked."""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.component.gateway.greeter import TOKEN, free_port
from tests.waiting import LIMIT_S

from consilium.gateway.forwarding import Reached
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.principals import TOKEN_KEY
from consilium.kernel.rooms import LORA_ROUTER
from consilium.lora_router.client import LoraRouterClient


@dataclass
class AdaptersRoom:
    """One process, at ports that it keeps over restarts."""

    folder: Path
    sections: dict[str, object] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self):
        self.grpc, self.http, self.page = free_port(), free_port(), free_port()
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def reached(self):
        return Reached(LORA_ROUTER, f"127.0.0.1:{self.grpc}", f"http://127.0.0.1:{self.http}")

    def start(self):
        config = self.folder / "config.json"
        services = {
            "lora_router": {
                "grpc": f"127.0.0.1:{self.grpc}",
                "http": f"http://127.0.0.1:{self.http}",
                "metrics": f"http://127.0.0.1:{self.page}",
            }
        }
        config.write_text(json.dumps({"services": services, **self.sections}))
        (self.folder / "token").write_text(TOKEN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", LORA_ROUTER.module, "--config", str(config)],
            env={**os.environ, "CONSILIUM_STATE": str(self.folder)},
        )
        url, until = f"http://127.0.0.1:{self.http}/v1/adapters", time.monotonic() + LIMIT_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(url, headers={TOKEN_KEY: TOKEN}, timeout=LIMIT_S).status_code == 200:
                    return self
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the room did not start")

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Replica:
    """An engine's slots as the room sees them. `canary` is the verdict of what it tries."""

    def __init__(self, room, executor="core", slots=4, canary="PROOF_OK", **engine):
        self._engine = engine
        self._channel = Channel(f"127.0.0.1:{room.grpc}", name="lora_router", token=TOKEN)
        self._router = LoraRouterClient(self._channel)
        self._executor, self.canary = executor, canary
        self.slots = [""] * slots
        self.ram: list[str] = []

    async def run(self):
        """Report until cancelled."""
        version, done, tried = 0, [], []
        try:
            while True:
                answer = await self._router.report(
                    {
                        "executor": self._executor,
                        "replica": "replica-1",
                        "version": version,
                        "slots": [{"slot": n, "reference": r} for n, r in enumerate(self.slots)],
                        "ram": self.ram,
                        "done": done,
                        "tried": tried,
                        "max_rank": 64,
                        "ram_places": 8,
                        "exact": True,
                        "wait_s": 0.3,
                        **self._engine,
                    }
                )
                version, done, tried = int(answer.get("version", version)), [], []
                for reference in answer.get("gone", ()):
                    self._evict(reference)
                for move in answer.get("moves", ()):
                    done.append(int(move["id"]))
                    tried += self._moved(move["kind"], move["reference"])
        finally:
            await self._channel.aclose()

    def _moved(self, kind, reference):
        if kind == "MOVE_KIND_TRY":
            return [
                {"reference": reference, "proof": self.canary, "figures_json": '{"delta": 1.5}'}
            ]
        if kind == "MOVE_KIND_EVICT":
            self._evict(reference)
        elif kind == "MOVE_KIND_RAM" and reference not in self.ram:
            self.ram.append(reference)
        elif kind == "MOVE_KIND_SLOT" and reference not in self.slots:
            self.slots[self.slots.index("")] = reference
        return []

    def _evict(self, reference):
        self.slots = ["" if held == reference else held for held in self.slots]
        self.ram = [held for held in self.ram if held != reference]


async def reporting(replica):
    """Run a replica beside a test; cancel what is returned."""
    task = asyncio.create_task(replica.run())
    await asyncio.sleep(0)
    return task
