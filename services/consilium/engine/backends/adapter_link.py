"""What joins one engine replica to the room of adapters: a channel, the files of this node, and the agent that reports.

Knows where the router is, and the backends. Does not know what is reported (adapter_agent.py), or who gets a slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from consilium.engine.adapter_agent import AdapterAgent, Canary, Replica
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterLimits, AdapterTarget
from consilium.engine.backends.adapter_files import AdapterFiles
from consilium.kernel import logs
from consilium.kernel.config import default_state, internal_token
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.lora_router.client import LoraRouterClient

_log = logs.get("engine")

ROOM: Final = "lora_router"


def open_files(
    router: Mapping[str, str], limits: AdapterLimits | None = None
) -> tuple[Channel, AdapterFiles]:
    """Return a channel to the room, and the files of this node.

    router  address: host:port of the room; folder: of the cluster's secrets

    Raises ConsiliumError(config_invalid) without the internal token.
    """
    token = internal_token(Path(router["folder"]))
    channel = Channel(router["address"], name=ROOM, token=token)
    cache = default_state() / "engine" / "adapters"
    return channel, AdapterFiles(LoraRouterClient(channel), cache, limits)


class AdapterLink:
    """One replica's. `start` before it says ready; it raises ConsiliumError(part_failed) where a pinned adapter cannot be had. `close` when it ends.

    others  actors that hold the files of the other nodes of this engine: `hold.remote(fields of a target)`, `let_go.remote(sha)`
    """

    def __init__(
        self,
        desk: AdapterDesk,
        canary: Canary,
        replica: Replica,
        router: Mapping[str, str],
        *,
        limits: AdapterLimits,
        others: Sequence[Any] = (),
    ) -> None:
        self._channel, self._files = open_files(router, limits)
        self._others = others
        self._letting_go: set[asyncio.Task[None]] = set()
        desk.files = self._held
        self._agent = AdapterAgent(
            desk,
            LoraRouterClient(self._channel),
            replace(replica, sees=self._files.sees),
            canary,
            ready_s=limits.ready_s,
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Ask what is wanted and have it; from then on report. Raises ConsiliumError(part_failed) if what is pinned cannot be had."""
        await self._agent.prepare()
        self._task = asyncio.create_task(self._agent.run())
        self._task.add_done_callback(_ended)

    def close(self) -> None:
        """Report no more."""
        self._agent.close()
        if self._task is not None:
            self._task.cancel()

    @asynccontextmanager
    async def _held(self, target: AdapterTarget) -> AsyncIterator[AdapterTarget]:
        """Have the files on every node of this engine, read through and right."""
        elsewhere = [other.hold.remote(asdict(target)) for other in self._others]
        try:
            async with self._files.held(target) as here:
                await asyncio.gather(*elsewhere)
                yield here
        finally:
            if elsewhere:
                task = asyncio.create_task(self._let_go(elsewhere, target.sha))
                self._letting_go.add(task)
                task.add_done_callback(self._letting_go.discard)

    async def _let_go(self, holding: Sequence[Any], sha: str) -> None:
        await asyncio.gather(*holding, return_exceptions=True)
        for other in self._others:
            other.let_go.remote(sha)


def open_link(
    engine: Any,
    *,
    executor: str,
    replica: str,
    router: Mapping[str, str],
    others: Sequence[Any] = (),
) -> AdapterLink | None:
    """Return the link of a started engine, or None where it has no slots, or nothing says where the router is.

    engine  a VllmEngine
    """
    desk, canary = engine.adapters, engine.canary
    if desk is None or not router.get("address"):
        return None
    about = engine.info()
    facts = Replica(
        executor=executor,
        name=replica,
        revision=about.revision,
        max_rank=engine.max_rank,
        base_config=_base_config(Path(engine.model_path)),
        target_modules=engine.lora_modules,
        mixed_experts=engine.mixed_experts,
    )
    try:
        return AdapterLink(desk, canary, facts, router, limits=engine.adapter_limits, others=others)
    except ConsiliumError as error:
        _log.warning("adapters_unreachable", executor=executor, reason=error.public())
        return None


def _base_config(folder: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return (folder / "config.json").read_text("utf-8")
    return ""


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("agent_ended", cause=repr(error), exc_info=error)
