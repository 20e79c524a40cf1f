"""A replica's agent as a process of its own: the real link to the room of adapters, the real desk and files, and an engine of vLLM's rules that answers with what a slot holds.

    python -m tests.component.gateway.echo_replica '{"name": ..., "room": "host:port", "folder": ..., "model": ..., "state": ...}'

Says its port in its first line. Asked with lines of JSON: {"ask": reference} is answered as a call is, {"map": true} with what the engine and the desk hold.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from types import SimpleNamespace

from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterLimits, AdapterTarget
from consilium.engine.backends.adapter_link import open_link
from consilium.engine.backends.echo_slots import EchoSlots
from consilium.engine.canary import Verdict
from consilium.engine.slots import Slots, Tier
from consilium.kernel.errors import ConsiliumError
from consilium.lora_router.client import content_sha

SLOTS, RAM = 3, 5


class Engine(EchoSlots):
    """What it would answer with is the hash of the files that it has read."""

    async def read(self, target: AdapterTarget) -> None:
        """Read the files."""
        await super().read(target)
        self._read[target.number] = content_sha(Path(target.path))


class Canary:
    """Finds every adapter sound, and looks once more at each load."""

    async def try_out(self, _target: AdapterTarget) -> Verdict:
        """Return that it is sound."""
        return Verdict("ok", "{}", "")

    async def fingerprint(self, _target: AdapterTarget) -> str:
        """Return nothing to compare."""
        return ""


class Counts:
    """Counts nothing."""

    def hit(self, tier: Tier) -> None:
        """Do nothing."""

    def loaded(self, tier: Tier, seconds: float, *, well: bool) -> None:
        """Do nothing."""

    def state(self, *, slots: int, ram: int, waiting: int, evictions: int) -> None:
        """Do nothing."""


async def unread(_target: AdapterTarget) -> AdapterTarget:
    """Stand where the link puts its files."""
    raise NotImplementedError


class Answers:
    """What the process says to its test."""

    def __init__(self, engine: Engine, desk: AdapterDesk) -> None:
        self._engine, self._desk = engine, desk

    async def ask(self, reference: str) -> dict[str, object]:
        """Answer as a call is answered: with the hash that the slot holds, looked at several times while the call holds it."""
        try:
            async with self._desk.hold(reference) as held:
                marks = set()
                for _ in range(3):
                    marks.add(self._engine.mark(held.target.number))
                    await asyncio.sleep(0.001)
                return {"marks": sorted(marks)}
        except ConsiliumError as error:
            return {"refused": error.code}

    async def map(self) -> dict[str, object]:
        """Return what the engine holds, and what the desk takes it to hold."""
        seen, names, book = await self._engine.look(), self._desk.names, self._desk.slots
        return {
            "slots": sorted(names[number] for number in seen.slots if number is not None),
            "ram": sorted(names[number] for number in seen.ram),
            "book_slots": sorted(book.in_slots),
            "book_ram": sorted(book.ram),
            "surprises": self._engine.surprises,
            "busy": bool(book.fetching or book.waiting or book.in_use),
        }

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        while line := await reader.readline():
            asked = json.loads(line)
            said = await (self.ask(asked["ask"]) if "ask" in asked else self.map())
            writer.write(json.dumps(said).encode() + b"\n")
            await writer.drain()
        writer.close()


async def main(told: dict[str, str]) -> None:
    """Run until killed."""
    engine, alarm = Engine(SLOTS, RAM), asyncio.Event()
    desk = AdapterDesk(
        engine,
        Slots(SLOTS, RAM, max_wait_s=20.0, yield_s=0.05),
        files=unread,  # type: ignore[arg-type]
        counts=Counts(),
        on_alarm=lambda _cause: alarm.set(),
    )
    await desk.start()
    about = SimpleNamespace(revision="")
    whole = SimpleNamespace(
        adapters=desk,
        canary=Canary(),
        info=lambda: about,
        max_rank=16,
        model_path=told["model"],
        adapter_limits=AdapterLimits(),
        lora_modules=(),
        mixed_experts=False,
    )
    router = {"address": told["room"], "folder": told["folder"]}
    link = open_link(whole, executor="core", replica=told["name"], router=router)
    assert link is not None
    await link.start()
    answers = Answers(engine, desk)
    server = await asyncio.start_server(answers.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await alarm.wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
