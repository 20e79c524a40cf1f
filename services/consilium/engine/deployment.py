"""The Serve deployment of one executor: a thin shell around the vLLM backend.

Knows Serve's hooks: construction, health, routing statistics, shutdown. Everything else is the backend's. An engine that dies takes this process with
it, so that Serve replaces the replica at once instead of after three failed health checks; and a replica that is killed takes its engine with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from ray import serve

from consilium.engine import cards_held, heavy_imports, leash, multinode
from consilium.engine.affinity import STATS_ONGOING
from consilium.engine.frame_socket import SENT, TAKEN, CallerGoneError, open_line
from consilium.engine.no_http import NoHttp
from consilium.engine.placement import BIND
from consilium.engine.ports import Call
from consilium.kernel import logs, trace_context
from consilium.kernel.catalogue import BY_CODE
from consilium.kernel.config import environment_value
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.metrics import of_this_process
from consilium.kernel.metrics_files import forget_ended_here
from consilium.kernel.process import set_variable

_log = logs.get("engine")

BACKEND: Final = "consilium.engine.backends.vllm"
LINK: Final = "consilium.engine.backends.adapter_link"
DEAD_ENGINE_EXIT: Final = BY_CODE["part_failed"].exit_code


class EngineReplica(NoHttp):
    """One copy of one executor.

    settings   fields of VllmSettings, as a dict
    cpu_lists  cores of each replica, by replica rank; empty = as the environment says
    router     where the room of adapters is, and the folder of the cluster's secrets; empty = nobody tells of adapters
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        settings: dict[str, Any],
        cpu_lists: tuple[str, ...] = (),
        router: dict[str, str] | None = None,
    ) -> None:
        began = time.monotonic()
        logs.configure("engine")
        context = serve.get_replica_context()
        self._leash = _leashed()
        forget_ended_here()
        if cpu_lists:
            set_variable(BIND, cpu_lists[context.rank.rank % len(cpu_lists)])
        settings = dict(settings)
        # Nothing until it is ready: a counter that is born with 1 shows no growth.
        of_this_process().add("consilium_engine_starts_total", 0, executor=settings["name"])
        self._followers: multinode.Followers | None = None
        end_process = partial(_end_process, settings["name"])
        if multinode.is_spread(settings["engine_args"]):
            settings["engine_args"], self._followers = multinode.lead(
                settings["engine_args"], settings["name"], str(context.rank.rank)
            )
            self._followers.watch(
                end_process
            )  # from now on: a follower that cannot start would leave this one waiting for it
        # Importing vLLM takes seconds of a core; in a thread, so that Serve can still ask this replica how it is.
        backend: Any = await asyncio.to_thread(heavy_imports.load, BACKEND)
        through_ray = (
            environment_value("PROMETHEUS_MULTIPROC_DIR") is None
        )  # such as on a node that was joined by hand
        settings |= {
            "replica": context.replica_tag,
            "rank": context.rank.rank,
            "ray_metrics": through_ray,
        }
        self._engine = backend.VllmEngine(backend.VllmSettings(**settings), on_dead=end_process)
        await self._engine.start()
        self._link = await self._linked(settings["name"], context.replica_tag, router or {})
        await asyncio.to_thread(leash.remember, self._leash)
        self._start_s = time.monotonic() - began
        of_this_process().add("consilium_engine_starts_total", executor=settings["name"])
        cards_held.tell(settings["name"], str(context.rank.rank))

    async def _linked(self, name: str, replica: str, router: dict[str, str]) -> Any:
        """Join the room of adapters, where the engine has slots: what is pinned is in them before this replica says ready."""
        if self._engine.adapters is None or not router:
            return None
        link: Any = await asyncio.to_thread(heavy_imports.load, LINK)
        limits = asdict(self._engine.adapter_limits)
        others = [] if self._followers is None else self._followers.keepers(router, limits)
        opened = link.open_link(
            self._engine, executor=name, replica=replica, router=router, others=others
        )
        if opened is not None:
            try:
                await opened.start()
            except ConsiliumError as error:
                reason = error.fields.get("reason", error.public())
                _log.error("engine_start_failed", executor=name, reason=reason)
                opened.close()
                self._engine.shut_down()
                raise
        return opened

    async def stream(self, call: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield the frames of one answer, or send them to where the caller awaits them and yield SENT. That it has the call it says at once."""
        line = await open_line(call.pop("landing", ""))
        asked = Call.of(call)
        trace_context.enter(trace_context.of(asked.trace.items()))
        if line is None:
            yield TAKEN
            async with aclosing(self._engine.stream(asked)) as frames:
                async for frame in frames:
                    yield frame
            return
        async with line, aclosing(self._engine.stream(asked)) as frames:
            try:
                async for frame in frames:
                    await line.send(frame)
                await line.finish()
            except CallerGoneError:  # whoever asked is gone; Serve will notice too
                return
        yield SENT

    async def info(self) -> dict[str, Any]:
        """Return the fields of ExecutorInfo, for all copies together."""
        info = self._engine.info()
        return {
            **asdict(info),
            "places": info.places * max(1, serve.get_replica_context().world_size),
            "start_s": round(self._start_s, 1),
        }

    async def check_health(self) -> None:
        """Raise if no token can be generated."""
        await self._engine.check()

    async def load(self) -> dict[str, int]:
        """Return how busy this replica is."""
        return dict(self._engine.load())

    def record_routing_stats(self) -> dict[str, Any]:
        """Return what the request router needs to know about this replica. An idle one says the same every time, so that no news travels."""
        adapters = self._engine.adapters
        load = {**self._engine.load(), **({} if adapters is None else adapters.held())}
        ongoing = load["streams"]
        return {**load, STATS_ONGOING: ongoing, **({"at": time.time()} if ongoing else {})}

    def __del__(self) -> None:
        """End the engine and its processes; Serve calls this once the running calls are done."""
        link = getattr(self, "_link", None)
        if link is not None:
            link.close()
        engine = getattr(self, "_engine", None)
        if engine is not None:
            engine.shut_down()
        followers = getattr(self, "_followers", None)
        if followers is not None:
            followers.end()


class Door(NoHttp):
    """The ingress of an application with several copies, which nobody calls.

    With HAProxy in front, Serve refuses a request router on an ingress deployment, so the engines stand behind this one.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine


def _leashed() -> subprocess.Popen[bytes]:
    """Let all that this replica starts end with it, also when it is killed. Called before it starts anything."""
    name = secrets.token_hex(8)
    set_variable(leash.VARIABLE, name)
    set_variable(
        "SPT_NOENV", "1"
    )  # vLLM names its processes, and setproctitle would write that over their environment
    return leash.tie(name)


def _end_process(executor: str, cause: BaseException) -> None:
    _log.error("replica_ends", exit_code=DEAD_ENGINE_EXIT, cause=repr(cause))
    of_this_process().add(
        "consilium_engine_restarts_total", executor=executor, reason=type(cause).__name__
    )
    logging.shutdown()
    os._exit(DEAD_ENGINE_EXIT)
