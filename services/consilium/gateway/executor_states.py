"""How the executors are: asked again and again, and known to whoever wants to know at no cost.

However many ask at once, each executor is asked once, and one that does not answer holds nobody up. Knows executors and places. Does not know HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from consilium.engine.client import EngineClient, State
from consilium.gateway.config import Gateway
from consilium.gateway.gate import Gate
from consilium.kernel import logs
from consilium.kernel.clock import Clock

OFTEN_S: Final = 1.0
SELDOM_S: Final = 10.0
"""Seconds between two questions to a remote executor that is ready; our own cost nothing and are asked often."""
FRESH_S: Final = 0.2
"""A state that is not older than this many seconds is not asked for again."""
WAIT_S: Final = 0.4
"""Whoever asks waits so long for the executors; then they get what is known. Less than those who ask have: 'consilium status' 0.6 s, a probe of Kubernetes 1 s."""
ANSWER_S: Final = 1.0
"""An executor that takes longer for its answer is told to owe it."""
SILENT_S: Final = 10.0
"""An executor that has owed an answer for so long is not ready. Its longest step, while it reads a prompt, is shorter."""

_log = logs.get("gateway")


@dataclass(frozen=True, slots=True)
class Seen:
    """How one executor is, as far as it is known.

    state     ready only once a token has come from an engine that still runs
    since     when it came into this state, on the monotonic clock
    silent_s  seconds for which a question has waited for its answer
    """

    state: State
    since: float
    silent_s: float = 0.0

    @property
    def is_ready(self) -> bool:
        """Say whether it can be sent a turn."""
        return self.state is State.READY and self.silent_s < SILENT_S


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
        now = clock.monotonic()
        self._seen = {info.name: Seen(State.STARTING, now) for info in engine.executors()}
        self._answered = dict.fromkeys(self._seen, now - SELDOM_S)
        self._asked: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    def seen(self, name: str) -> Seen:
        """Return how an executor is, without asking it. Raises KeyError for one that is not in the configuration."""
        seen, told = self._seen[name], self._engine.info(name)
        waits_s = self._clock.monotonic() - self._asked[name] if name in self._asked else 0.0
        silent_s = max(waits_s, told.silent_s)
        # A call has found that nobody runs: that is known before the question how it is has failed.
        is_gone = seen.state is State.READY and told.state is State.STARTING
        state = State.STARTING if is_gone else seen.state
        return Seen(state, seen.since, silent_s if silent_s >= ANSWER_S else 0.0)

    def states(self) -> Mapping[str, State]:
        """Return how each executor is, without asking."""
        return {name: seen.state for name, seen in self._seen.items()}

    async def look(self) -> Mapping[str, Seen]:
        """Return how each executor is, at most FRESH_S seconds old where it answers within ANSWER_S."""
        await self._ask(FRESH_S, FRESH_S)
        return {name: self.seen(name) for name in self._seen}

    async def run(self) -> None:
        """Ask for as long as this task lives. No failure ends it."""
        while True:
            await self._ask(OFTEN_S / 2, SELDOM_S)
            await asyncio.sleep(OFTEN_S)

    async def _ask(self, fresh_s: float, remote_fresh_s: float) -> None:
        """Ask those whose state is older than this, and wait until they have answered, but not for long.

        remote_fresh_s  the same for remote executors that are ready
        """
        now = self._clock.monotonic()
        for info in self._engine.executors():
            is_well = info.kind == "remote" and self._seen[info.name].state is State.READY
            if now - self._answered[info.name] < (remote_fresh_s if is_well else fresh_s):
                continue
            if info.name not in self._asking:
                self._asked[info.name] = now
                self._asking[info.name] = asyncio.ensure_future(self._probe(info.name))
        if self._asking:
            await asyncio.wait(list(self._asking.values()), timeout=WAIT_S)

    async def _probe(self, name: str) -> None:
        try:
            state = await self._engine.probe(name)
            now = self._clock.monotonic()
            if state is not self._seen[name].state:
                self._seen[name] = Seen(state, now)
            self._answered[name] = now
            info = self._engine.info(name)
            if info.model:  # it has said what it is; before that, callers are told that it starts and not that it is full
                places = info.places / self._limits.replicas
                limit = round(places * self._limits.max_in_flight_factor)
                self._gate.set_limit(name, max(1, limit), max(1, round(places)))
            self._told(self.states())
        except Exception:
            _log.exception("look_failed", executor=name)
        finally:
            del self._asking[name], self._asked[name]
