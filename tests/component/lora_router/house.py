"""A room over a true store and registry, with replicas that do what they are asked."""

import asyncio
from dataclasses import replace

from tests.unit.lora_router import made

from consilium.kernel.clock import SystemClock
from consilium.lora_router.config import View
from consilium.lora_router.http_fields import Said
from consilium.lora_router.opening import Room
from consilium.lora_router.ports import Placement, Proof
from consilium.lora_router.reports import MoveKind, Report, SlotView, TriedNote, UseNote
from consilium.lora_router.routes import Offered


class Replica:
    """A replica with slots and memory that obeys at once; `verdict` is what its canary says, `stuck` moves are never done."""

    def __init__(self, room, name="r1", executor="core", slots=4, **engine):
        self.engine = {"max_rank": 16} | engine
        self.room, self.name, self.executor = room, name, executor
        self.slots = [SlotView(n) for n in range(slots)]
        self.ram, self.tried, self.done, self.uses = [], (), (), ()
        self.targets, self.version, self.seen = {}, 0, []
        self.verdict, self.in_use, self.broken = Proof.OK, {}, {}
        self.task = asyncio.create_task(self.run())

    async def run(self):
        while True:
            report = Report(
                self.executor,
                self.name,
                self.version,
                tuple(self.slots),
                tuple(self.ram),
                (*self.uses, *(UseNote(ref, count) for ref, count in self.in_use.items())),
                self.tried,
                self.done,
                ram_places=8,
                exact=True,
                wait_s=2.0,
                **self.engine,
            )
            self.tried, self.done, self.uses = (), (), ()
            wanted = await self.room.desk.fleet.report(report)
            self.version = wanted.version
            if wanted.whole:
                self.targets = {}
            self.targets |= {target.reference: target for target in wanted.targets}
            for gone in wanted.gone:
                self.targets.pop(gone, None)
            firm = {n for n, each in self.targets.items() if each.placement is Placement.VRAM}
            self.slots = [replace(slot, pinned=slot.reference in firm) for slot in self.slots]
            for move in wanted.moves:
                self.seen.append((move.kind, move.reference))
                self.obey(move)
            self.slots = [replace(slot, pinned=self.is_pinned(slot)) for slot in self.slots]
            await asyncio.sleep(0.005)

    def is_pinned(self, slot):
        target = self.targets.get(slot.reference)
        return target is not None and target.placement is Placement.VRAM

    def obey(self, move):
        if move.reference in self.broken:
            self.uses += (UseNote(move.reference, failure=self.broken[move.reference]),)
        elif move.kind is MoveKind.TRY:
            self.tried += (TriedNote(move.reference, self.verdict, "{}", "f"),)
        elif move.kind is MoveKind.SLOT:
            free = next(n for n, slot in enumerate(self.slots) if not slot.reference)
            self.slots[free] = SlotView(free, move.reference)
        elif move.kind is MoveKind.RAM:
            self.ram.append(move.reference)
        elif move.kind is MoveKind.EVICT and not self.in_use.get(move.reference):
            self.ram = [each for each in self.ram if each != move.reference]
            self.slots = [
                replace(slot, reference="", pinned=False)
                if slot.reference == move.reference
                else slot
                for slot in self.slots
            ]
        self.done += (move.id,)


class House:
    """A room with its replicas, and the configuration that it reads."""

    def __init__(self, folder):
        self.folder, self.replicas = folder, []

    async def open(self, **settings):
        view = View.model_validate(settings)
        self.room = await Room.open(view, self.folder / "room", SystemClock())
        return self.room

    def replica(self, **how):
        self.replicas.append(Replica(self.room, **how))
        return self.replicas[-1]

    def files(self, name, seed=1, **over):
        folder = self.folder / f"files-{name}-{seed}"
        folder.mkdir()
        made.write(folder, made.factors(made.modules(), over.pop("ranks", 8), seed, 0.05), **over)
        return folder

    async def add(self, name, seed=1, *, force=False, **settings):
        where = self.room.arrivals  # the store moves what it is given
        assert where
        return await self.room.take(
            Offered(Said(name, force, settings), self.files(name, seed), None)
        )

    def row(self, name):
        update = self.room.table.since("", 0)
        import json

        return json.loads(update.changed[name])

    async def close(self):
        for replica in self.replicas:
            replica.task.cancel()
        await self.room.aclose()


async def until(what, seconds=30.0):
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  what is waited for is another task's
            await asyncio.sleep(0.01)
