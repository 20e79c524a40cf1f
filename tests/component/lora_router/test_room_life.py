"""The room of adapters as a process: replicas that wait for its wishes do not hold up its end."""

import asyncio
import signal

import pytest
from tests.greeter.running import Running

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.rooms import LORA_ROUTER
from consilium.lora_router.client import LoraRouterClient

REPORT = {"executor": "core", "replica": "r1", "max_rank": 16, "ram_places": 4, "exact": True}


async def test_it_ends_at_once_though_a_replica_waits_for_its_wishes(tmp_path):
    running = Running(tmp_path, {"model": "tiny"}, room=LORA_ROUTER)
    try:
        await running.start().until_up()
        async with running.channel() as channel:
            router = LoraRouterClient(channel)
            first = await router.report({**REPORT, "wait_s": 0.0})
            poll = asyncio.create_task(
                router.report({**REPORT, "version": int(first["version"]), "wait_s": 30.0})
            )
            await asyncio.sleep(0.3)
            assert not poll.done()
            running.tell(signal.SIGTERM)
            with pytest.raises(ConsiliumError) as caught:
                await poll
            # The room's own word: it was let go, and not cut when the grace was over.
            assert caught.value.code == "upstream_down"
            assert caught.value.fields["name"] == "the room of adapters"
            assert await running.ended() == 0
        assert "Traceback" not in running.log
    finally:
        running.end()
