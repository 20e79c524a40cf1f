"""kill -9 of the adapters' room while adapters come in: after its next start the store holds what it lists, and whatever was acknowledged is there."""

import asyncio
import itertools
import random

import httpx
from tests.component.gateway.adapters_room import AdaptersRoom
from tests.component.gateway.greeter import TOKEN
from tests.unit.lora_router import made
from tests.waiting import until_true

from consilium.kernel.principals import TOKEN_KEY
from consilium.lora_router.adapter_files import content_sha

KILLS = 4
SEED = 15


async def add_and_remove(url, folder, rng, told, leaving):
    """Add adapters, and remove some, until the room is gone. `told` is what was acknowledged: name -> hash; of names that are `leaving` nobody knows."""
    async with httpx.AsyncClient(headers={TOKEN_KEY: TOKEN}, base_url=url, timeout=60) as client:
        for number in itertools.count():
            name, seed = f"a{rng.randrange(6)}", rng.randrange(1000)
            source = made.write(
                folder / f"{name}-{number}", made.factors(made.modules(), seed=seed)
            )
            files = {path.name: path.read_bytes() for path in source.iterdir()}
            try:
                if number % 4 == 3:
                    leaving.append(name)
                    told.pop(name, None)
                    await client.delete(f"/v1/adapters/{name}")
                    leaving.remove(name)
                    continue
                answer = await client.post(
                    "/v1/adapters", data={"name": name, "force": "true"}, files=files
                )
                if answer.status_code in {404, 409}:  # the other caller has removed it, or does
                    continue
                assert answer.status_code == 201, answer.text
                if name not in leaving:
                    told[name] = answer.json()["stored"]
            except httpx.TransportError:
                return


async def test_nothing_is_lost_and_nothing_left_over(tmp_path):
    rng = random.Random(SEED)
    room = AdaptersRoom(tmp_path / "room")
    root = room.folder / "lora_router"
    told = {}
    for kill in range(KILLS):
        room.start()
        url = f"http://127.0.0.1:{room.http}"
        leaving = []
        callers = [
            asyncio.create_task(add_and_remove(url, tmp_path / f"{kill}-{who}", rng, told, leaving))
            for who in range(2)
        ]
        if kill % 2:  # some kills come while the first is being stored, others after one that is
            await until_true(lambda: bool(told))
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        room.kill()
        await asyncio.gather(*callers)
        room.start()
        async with httpx.AsyncClient(
            headers={TOKEN_KEY: TOKEN}, base_url=url, timeout=60
        ) as client:
            names = [row["name"] for row in (await client.get("/v1/adapters")).json()["adapters"]]
            listed = {}
            for name in names:
                found = (await client.get(f"/v1/adapters/{name}")).json()
                listed |= {version["sha"]: name for version in found["versions"]}
        folders = {
            path.name: path for shelf in (root / "store").glob("??") for path in shelf.iterdir()
        }
        assert folders.keys() == listed.keys()
        assert all(content_sha(path) == sha for sha, path in folders.items())
        assert not list((root / "store" / ".aside").iterdir())
        assert set(told.values()) <= listed.keys()
        room.kill()
    assert told, "nothing was acknowledged: the kills came too early"
