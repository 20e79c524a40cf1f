"""Random operations on adapters with real processes: a room and two replicas' agents, of which one is killed five times and the room once.

No answer comes from another adapter than the one that was asked for, and after rest the room, the desks and the engines say the same of every slot.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.component.gateway.adapters_room import AdaptersRoom
from tests.component.gateway.greeter import TOKEN
from tests.unit.lora_router import made

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.principals import CLUSTER, TOKEN_KEY
from consilium.lora_router.identity import reference
from consilium.v1 import lora_router_pb2 as pb
from consilium.v1 import lora_router_pb2_grpc as rpc

REPOSITORY = Path(__file__).resolve().parents[3]
SEED, STEPS, NAMES = 15, 240, [f"a{n}" for n in range(8)]
KILLS = frozenset({40, 80, 120, 160, 200})
ROOM_KILL = 100
TIERS = [pb.TIER_VRAM, pb.TIER_RAM, pb.TIER_SSD]


class Agent:
    """One replica's process; a new life has a new name, as replicas of Serve have."""

    def __init__(self, number, room, folder):
        self._number, self._room, self._folder, self._life = number, room, folder, 0
        self.process = self.name = self.port = None

    async def start(self):
        self._life += 1
        self.name = f"replica-{self._number}-{self._life}"
        told = {
            "name": self.name,
            "room": f"127.0.0.1:{self._room.grpc}",
            "folder": str(self._room.folder),
            "model": str(self._folder / "model"),
        }
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.component.gateway.echo_replica", json.dumps(told),
            cwd=REPOSITORY,
            env={
                **os.environ,
                "CONSILIUM_STATE": str(self._folder / f"state{self._number}"),
                "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "services"), str(REPOSITORY)]),
            },
            stdout=subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(120):
            self.port = int(await self.process.stdout.readline())

    async def kill(self):
        self.port = None
        self.process.kill()
        await self.process.wait()

    async def asked(self, **question):
        """Return what it says, or None if it dies meanwhile, or is not there."""
        if self.port is None:
            return None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(json.dumps(question).encode() + b"\n")
            line = await reader.readline()
            writer.close()
        except OSError:
            return None
        return json.loads(line) if line else None


class Play:
    """What is done, and what came of it. `shas` are the hashes that were ever acknowledged, by reference."""

    def __init__(self, room, folder, draw):
        self.room, self.folder, self.draw = room, folder, draw
        self.agents = [Agent(n, room, folder) for n in range(2)]
        self.shas, self.answers, self.wrong, self.added = {}, 0, [], 0
        self._channel = Channel(f"127.0.0.1:{room.grpc}", name="lora_router", token=TOKEN)
        self._stub = rpc.LoraRouterServiceStub(self._channel.raw)

    async def aclose(self):
        await self._channel.aclose()

    async def call(self, method, request):
        return await self._channel.ask(
            getattr(self._stub, method), request, timeout_s=60.0, principal=CLUSTER
        )

    async def add(self, name, seed):
        self.added += 1
        source = made.write(
            self.folder / f"{name}-{self.added}", made.factors(made.modules(), seed=seed)
        )
        files = {path.name: path.read_bytes() for path in source.iterdir()}
        url = f"http://127.0.0.1:{self.room.http}/v1/adapters"
        async with httpx.AsyncClient(headers={TOKEN_KEY: TOKEN}, timeout=60) as client:
            with suppress(httpx.TransportError):  # the room is killed just now
                answer = await client.post(url, data={"name": name, "force": "true"}, files=files)
                if answer.status_code == 201:
                    sha = answer.json()["stored"]
                    self.shas[reference(name, sha)] = sha

    async def ask(self, agent, name):
        said = await agent.asked(ask=name)
        if said is None or "refused" in said:
            return
        self.answers += 1
        if said["marks"] != [self.shas[name]]:
            self.wrong.append((name, said))

    async def one(self):
        """Do one thing."""
        draw = self.draw
        kind, name = draw.random(), draw.choice(NAMES)
        if kind < 0.7 and self.shas:
            await self.ask(draw.choice(self.agents), draw.choice(sorted(self.shas)))
        elif kind < 0.8:
            await self.add(name, draw.randrange(1000))
        elif kind < 0.86:
            await self.call("PlaceAdapter", pb.PlaceAdapterRequest(name=name, placement=draw.choice(TIERS)))  # fmt: skip
        elif kind < 0.9:
            await self.call("WarmAdapter", pb.WarmAdapterRequest(name=name, tier=draw.choice(TIERS[:2])))  # fmt: skip
        elif kind < 0.94:
            await self.call("EvictAdapter", pb.EvictAdapterRequest(name=name))
        elif kind < 0.97 and self.shas:
            other, _, sha = draw.choice(sorted(self.shas)).partition(":")
            await self.call("SwitchVersion", pb.SwitchVersionRequest(name=other, sha=sha, force=True))  # fmt: skip
        else:
            await self.call("RemoveAdapter", pb.RemoveAdapterRequest(name=name, wait_s=30))

    async def quietly(self):
        """Do one thing; a refusal is an answer too."""
        with suppress(ConsiliumError):
            await self.one()

    async def is_at_rest(self):
        """Say whether the room, the desks and the engines hold the same, and none of those that died is left in the room."""
        told = {}
        answer = await self.call("ListAdapters", pb.ListAdaptersRequest(with_sums=True))
        for listed in answer.adapters:
            found = await self.call("GetAdapter", pb.GetAdapterRequest(name=listed.name))
            for version in found.adapter.versions:
                for place in version.residences:
                    tier = "slots" if place.tier == pb.TIER_VRAM else "ram"
                    key = reference(listed.name, version.sha)
                    told.setdefault(place.replica, {"slots": set(), "ram": set()})[tier].add(key)
        held = {}
        for agent in self.agents:
            said = await agent.asked(map=True)
            if said is None or said["busy"]:
                return False
            assert not said["surprises"]
            if (said["slots"], said["ram"]) != (said["book_slots"], said["book_ram"]):
                return False
            slots = set(said["slots"])
            if said["ram"]:
                held[agent.name] = {"slots": slots, "ram": set(said["ram"]) - slots}
        return told == held


@pytest.fixture
async def play(tmp_path):
    """Return a room with four adapters, and two replicas that are up."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(made.TINY))
    draw = random.Random(SEED)
    room = AdaptersRoom(tmp_path / "room").start()
    found = Play(room, tmp_path, draw)
    try:
        for name in NAMES[:4]:
            await found.add(name, draw.randrange(1000))
        await asyncio.gather(*(agent.start() for agent in found.agents))
        yield found
    finally:
        await found.aclose()
        for agent in found.agents:
            if agent.process is not None and agent.process.returncode is None:
                await agent.kill()
        room.kill()


async def test_no_answer_is_another_adapters_and_the_map_is_the_engines(play):
    under_way, starting, kills = set(), {}, 0
    for step in range(STEPS):
        under_way.add(asyncio.create_task(play.quietly()))
        if step in KILLS:
            agent = play.agents[kills % 2]
            kills += 1
            if agent in starting:
                await starting[agent]
            await agent.kill()
            starting[agent] = asyncio.create_task(agent.start())
        if step == ROOM_KILL:
            play.room.kill()
            await asyncio.to_thread(play.room.start)
        if len(under_way) > 12:
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        await asyncio.sleep(0)
    await asyncio.gather(*under_way, *starting.values())
    assert kills == 5
    assert not play.wrong
    assert play.answers > STEPS / 8, "too few were answered to show anything"
    async with asyncio.timeout(180):
        while not await play.is_at_rest():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    for agent in play.agents:
        for name in sorted(play.shas):
            await play.ask(agent, name)
    assert not play.wrong
