"""How the executors are: asked now and then, and known to whoever wants to know at no cost.

However many ask at once, each executor is asked once. Knows executors and places. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from consilium.engine.client import EngineClient, State
from consilium.gateway.config import Gateway
from consilium.gateway.gate import Gate
from consilium.kernel import logs
from consilium.kernel.clock import Clock

OFTEN_S: Final = 1.0
SELDOM_S: Final = 10.0
FRESH_S: Final = 0.2
"""A state that is not older than this many seconds is not asked for again."""

_log = logs.get("gateway")


class Watch:
    """Asks every executor how it is, and tells the gate how many places it has.

    told  hears the states whenever they were asked for
    """

    def __init__(
        self,
        engine: EngineClient,
        gate: Gate,
        limits: Gateway,
        clock: Clock,
        told: Callable[[Mapping[str, State]], object] = lambda _states: None,
    ) -> None:
        self._told = told
        self._engine, self._gate, self._limits, self._clock = engine, gate, limits, clock
        self._states: Mapping[str, State] = {
            info.name: State.STARTING for info in engine.executors()
        }
        self._at = -FRESH_S
        self._asking: asyncio.Task[Mapping[str, State]] | None = None

    async def states(self) -> Mapping[str, State]:
        """Return how each executor is, at most FRESH_S seconds old."""
        if self._clock.monotonic() - self._at < FRESH_S:
            return self._states
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(self._asked)
        return await asyncio.shield(self._asking)

    async def run(self) -> None:
        """Ask for as long as this task lives: often until all are ready, then now and then. No failure ends it."""
        while True:
            states: Mapping[str, State] = {}
            try:
                states = await self.states()
            except Exception:
                _log.exception("look_failed")
            is_ready = bool(states) and all(state is State.READY for state in states.values())
            await asyncio.sleep(SELDOM_S if is_ready else OFTEN_S)

    async def _ask(self) -> Mapping[str, State]:
        names = [info.name for info in self._engine.executors()]
        found = await asyncio.gather(*(self._engine.probe(name) for name in names))
        for info in self._engine.executors():
            share = info.places * self._limits.max_in_flight_factor / self._limits.replicas
            self._gate.set_limit(info.name, max(1, round(share)))
        self._states, self._at = dict(zip(names, found, strict=True)), self._clock.monotonic()
        self._told(self._states)
        return self._states

    def _asked(self, _task: object) -> None:
        self._asking = None
