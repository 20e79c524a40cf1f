"""How other rooms reach executors: open a turn, read its chunks, close it.

Hides frames, Serve handles and remote servers. Raises only ConsiliumError: model_unknown (no such executor), upstream_down, engine_starting,
queue_full, deadline, internal. Does not know which executor should answer, nor what to do when it does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from difflib import get_close_matches
from typing import Self

from consilium.engine import wire
from consilium.engine.backends.serve import ServeEngine, translate
from consilium.engine.config import EngineExecutor, EngineView, RemoteExecutor
from consilium.engine.frame_socket import Landing
from consilium.engine.ports import CORE, Call, Engine, ExecutorInfo, Head, State, Tail
from consilium.kernel.closing import Closing
from consilium.kernel.errors import ConsiliumError

__all__ = [
    "CORE",
    "Call",
    "EngineClient",
    "ExecutorInfo",
    "Head",
    "State",
    "Tail",
    "Turn",
    "open_executors",
]

CLOSE_S = 1.0


class Turn(Closing):
    """One answer that is being given. `head` is there from the start, `tail` after the last chunk.

    Iterate once for the bytes of the body. `aclose` (or leaving the `async with`) stops the generation, if it still runs.
    """

    def __init__(
        self, executor: str, frames: AsyncGenerator[bytes, None], deadline: float | None
    ) -> None:
        self._executor = executor
        self._frames = frames
        self._deadline = deadline
        self._timer: asyncio.TimerHandle | None = None
        self._expired = False
        self._waiting: asyncio.Task[object] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._reader = wire.Reader()
        self._first = b""
        self.head = Head(0, stream=False, content_type="")
        self.tail: Tail | None = None

    async def begin(self) -> Self:
        """Wait for the head. Raises ConsiliumError when the answer fails before it."""
        if (
            self._deadline is not None
        ):  # one timer for the whole turn; one per chunk would cost more than the chunk
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, self._deadline - time.time()), self._expire
            )
        first = self._reader.take(await self._next())
        if first.head is not None:
            self.head = first.head
        self._first, self.tail = first.body, first.tail
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises ConsiliumError when it breaks off; what was yielded stays valid."""
        if self._first:
            yield self._first
        while self.tail is None:
            item = self._reader.take(await self._next())
            self.tail = item.tail
            if item.body:
                yield item.body

    async def aclose(self) -> None:
        """Stop the generation, if it still runs."""
        if self._timer is not None:
            self._timer.cancel()
        await (self._stop() if self._closing is None else asyncio.shield(self._closing))

    async def _stop(self) -> None:
        try:
            await asyncio.wait_for(self._frames.aclose(), CLOSE_S)
        except Exception as error:
            if not isinstance(error, TimeoutError):
                raise translate(error, self._executor) from error

    def _expire(self) -> None:
        self._expired = True
        if self._waiting is not None:
            self._waiting.cancel()
        elif self.tail is None:  # whoever does not read keeps no place in the engine
            self._closing = asyncio.ensure_future(self._stop())

    async def _next(self) -> bytes:
        if self._expired:
            raise self._late()
        self._waiting = asyncio.current_task()
        try:
            return await anext(self._frames)
        except StopAsyncIteration:
            missing = "tail" if self.head.status else "head"
            raise ConsiliumError(
                "upstream_down",
                f"the answer ended before its {missing}",
                name=self._executor,
                retry_after_s=1.0,
            ) from None
        except asyncio.CancelledError:
            if not self._expired or (self._waiting is not None and self._waiting.uncancel() > 0):
                raise
            await self.aclose()
            raise self._late() from None
        except Exception as error:
            raise translate(error, self._executor) from error
        finally:
            self._waiting = None

    def _late(self) -> ConsiliumError:
        return ConsiliumError("deadline", name=self._executor, retry_after_s=1.0)


class EngineClient:
    """All executors of the configuration, by name: those of our own behind Serve handles, remote ones, and in tests engines of this process."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = dict(engines)

    async def open(self, executor: str, call: Call) -> Turn:
        """Send a call and return when the answer has begun. Close the turn when it is no longer wanted."""
        engine = self._engine(executor)
        turn = Turn(executor, engine.stream(call), call.deadline)
        try:
            return await turn.begin()
        except BaseException:
            await turn.aclose()
            raise

    def executors(self) -> tuple[ExecutorInfo, ...]:
        """Return what is known of each executor, without asking it."""
        return tuple(engine.info() for engine in self._engines.values())

    def info(self, executor: str) -> ExecutorInfo:
        """Return what is known of one executor. Raises ConsiliumError(model_unknown)."""
        return self._engine(executor).info()

    async def probe(self, executor: str) -> State:
        """Ask an executor how it is, and remember what it said."""
        engine = self._engine(executor)
        try:
            await engine.check()
        except ConsiliumError as error:
            return State.STARTING if error.code == "engine_starting" else State.DOWN
        return engine.info().state

    async def aclose(self) -> None:
        """Let go of handles and connections."""
        for engine in self._engines.values():
            await engine.stop()

    def _engine(self, executor: str) -> Engine:
        try:
            return self._engines[executor]
        except KeyError:
            near = get_close_matches(executor, self._engines, n=1) or list(self._engines)[:1]
            raise ConsiliumError(
                "model_unknown",
                name=f"executor/{executor}",
                nearest=f"executor/{near[0]}" if near else None,
            ) from None


def open_executors(view: EngineView) -> EngineClient:
    """Return a client to every executor of a configuration. Nothing is asked yet: names of models are known after the first probe.

    Raises ConsiliumError(config_invalid) if the variable with a remote server's key is empty.
    """
    landing = Landing()
    engines: dict[str, Engine] = {CORE: ServeEngine(ExecutorInfo(CORE, "engine", ""), landing)}
    for name, executor in view.executors.items():
        if isinstance(executor, EngineExecutor):
            engines[name] = ServeEngine(
                ExecutorInfo(name, "engine", "", fallback=executor.fallback), landing
            )
        elif isinstance(executor, RemoteExecutor):
            engines[name] = _remote(name, executor)
    return EngineClient(engines)


def _remote(name: str, executor: RemoteExecutor) -> Engine:
    from consilium.engine.backends.openai import RemoteEngine, RemoteSettings

    settings = executor.model_dump(exclude={"kind"})
    return RemoteEngine(RemoteSettings(name=name, **settings))
