"""An executor behind a Ray Serve handle, as callers in another process see it.

Knows Serve's handle and the names of its errors. Does not know vLLM; the frames pass through untouched, on one machine by a shorter way (frame_socket.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from consilium.engine import wire
from consilium.engine.absence import Absence
from consilium.engine.frame_socket import Inbox, Landing
from consilium.engine.ports import Call, ExecutorInfo, State
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

DEPLOYMENT: Final = "Engine"
INFO_TIMEOUT_S: Final = 5.0
NOBODY_S: Final = 0.5
"""What a question or a call waits while no replica runs: long enough for Serve to say that it has given the executor up."""
LEARN_S: Final = 2.0
"""What a new handle has to learn which replicas run."""
HEARD_S: Final = 30.0
"""An executor that gave something to any call within so many seconds is up, though it may be too full to take a question. It counts only while a replica runs."""

_WAY: Final = ("_router", "_asyncio_router", "request_router", "curr_replicas")
"""From a handle of Ray 2.60 to the replicas that it knows."""

_log = logs.get("engine")


def app_name(executor: str) -> str:
    """Return the name of the Serve application of an executor."""
    return f"executor-{executor}"


class ServeEngine:
    """Obeys the engine port; start and stop belong to whoever deployed it.

    info     what is known before a replica has said anything
    landing  where frames arrive; one for all executors of a process
    """

    def __init__(self, info: ExecutorInfo, landing: Landing | None = None) -> None:
        self._info = info
        self._landing = landing or Landing()
        self._handle: Any = None
        self._heard = -HEARD_S
        self._opened = -LEARN_S
        self._absence = Absence()
        self._is_blind = False

    async def start(self) -> None:
        """Do nothing: the deployment starts by itself."""

    async def stop(self) -> None:
        """Forget the handle and cut off calls that still run; the deployment stays."""
        self._handle = None
        await self._landing.aclose()

    def info(self) -> ExecutorInfo:
        """Return what the executor said last."""
        return self._info

    def replicas(self) -> int | None:
        """Return how many replicas run, as the handle knows it; None before it knows, and with a Ray whose handles are made otherwise. A replica runs once its
        engine has generated a token.

        Costs nothing. A replica that died is gone from here as soon as a call to it failed, or Serve has noticed.
        """
        place: Any = self._handle
        for name in _WAY:
            if place is not None and not hasattr(place, name):
                self._cannot_look(name)
                return None
            place = getattr(place, name, None)
        return None if place is None else len(place)

    async def check(self) -> None:
        """Ask a replica how it is. Raises ConsiliumError(upstream_down, engine_starting, engine_failed)."""
        limit_s = NOBODY_S if self.replicas() == 0 else INFO_TIMEOUT_S
        try:
            said: dict[str, Any] = await self._answered(limit_s)
        except Exception as error:
            nobody = self.replicas() == 0
            if nobody:
                self._heard = -HEARD_S  # what the one before said counts no more
            if isinstance(error, TimeoutError) and time.monotonic() - self._heard < HEARD_S:
                self._info = replace(
                    self._info, state=State.READY
                )  # the question waits behind the calls that are being answered
                return
            failed = translate(error, self._info.name, limit_s)
            if (nobody or self._info.state is State.STARTING) and failed.code not in {
                "internal",
                "engine_failed",
            }:  # nothing runs that could answer: one is on its way
                failed = self._starting(str(failed))
            self._info = replace(
                self._info,
                state=State.STARTING if failed.code == "engine_starting" else State.DOWN,
                silent_s=0.0,
            )
            raise failed from error
        self._info = replace(
            ExecutorInfo(**{**said, "state": State(said["state"])}), fallback=self._info.fallback
        )
        if self._info.state is State.READY:
            self._absence.back(self._info.start_s)

    async def _answered(self, limit_s: float) -> dict[str, Any]:
        """Return what a replica says of itself. Raises TimeoutError, also soon after the last replica is gone: Serve keeps the question for the next one."""
        asked = asyncio.ensure_future(self._remote().info.remote())
        had_some = bool(self.replicas())
        ends = time.monotonic() + limit_s
        try:
            while (left := ends - time.monotonic()) > 0:
                done, _ = await asyncio.wait({asked}, timeout=min(left, NOBODY_S))
                if done or (had_some and self.replicas() == 0):
                    break
            if not asked.done():
                raise TimeoutError
            answer: dict[str, Any] = asked.result()
            return answer
        finally:
            asked.cancel()

    async def stream(self, call: Call) -> AsyncGenerator[bytes, None]:
        """Yield the frames as the replica wrote them. Closing the generator cancels the call there.

        Raises ConsiliumError(engine_starting) soon after the call where no replica runs: Serve would keep it waiting until one does.
        """
        response: Any = None
        is_whole = has_begun = False
        inbox = await self._landing.expect()
        looking = asyncio.get_running_loop().call_later(NOBODY_S, self._look, inbox)
        try:
            response = (
                self._remote()
                .options(stream=True)
                .stream.remote({**call.as_dict(), "landing": inbox.address})
            )
            inbox.follow(response)
            async for item in inbox:
                has_begun = True
                self._heard = time.monotonic()
                is_whole = wire.TAIL in item  # closing now must not send a cancellation after it
                yield item
            is_whole = True
        except Exception as error:
            failed = translate(error, self._info.name)
            if failed.code == "upstream_down" and not has_begun and (self.replicas() or 0) <= 1:
                failed = self._starting(
                    str(failed)
                )  # its only replica died: the next is on its way
            raise failed from error
        finally:
            looking.cancel()
            if not is_whole:
                if response is not None:
                    with suppress(Exception):
                        response.cancel()
                inbox.discard()

    def _look(self, inbox: Inbox) -> None:
        """End a call that nobody has taken, once nobody runs who could. Looks again for as long as it waits."""
        if not inbox.is_waiting:
            return
        is_gone = not self.replicas() and not self._is_blind
        if is_gone and time.monotonic() - self._opened >= LEARN_S:
            inbox.end(self._starting("no replica runs"))
        else:
            asyncio.get_running_loop().call_later(NOBODY_S, self._look, inbox)

    def _cannot_look(self, name: str) -> None:
        """Know that this Ray does not show its replicas: then calls wait as long as Serve lets them."""
        if not self._is_blind:
            self._is_blind = True
            _log.warning("replicas_not_seen", executor=self._info.name, missing=name)

    def _starting(self, detail: str) -> ConsiliumError:
        self._absence.gone()
        self._heard = -HEARD_S  # what the one before said counts no more
        self._info = replace(self._info, state=State.STARTING)
        wait_s = self._absence.retry_after_s()
        return ConsiliumError("engine_starting", detail, name=self._info.name, retry_after_s=wait_s)

    def _remote(self) -> Any:
        if self._handle is None:
            from ray import serve

            self._handle = serve.get_deployment_handle(DEPLOYMENT, app_name(self._info.name))
            self._opened = time.monotonic()
        return self._handle


# Errors of Ray and Serve by the name of their class, so that nobody in front of the engine imports Ray to read them.
_DOWN: Final = frozenset({
    "ActorDiedError", "ActorUnavailableError", "RayActorError", "ReplicaUnavailableError", "WorkerCrashedError",
    "NodeDiedError", "OwnerDiedError", "LocalRayletDiedError", "RaySystemError", "RequestCancelledError", "AioRpcError",
})  # fmt: skip
_GIVEN_UP: Final = (
    "its engine ended at each try, and it is not tried again; 'consilium logs engine' shows why"
)


def translate(
    error: BaseException, executor: str, timeout_s: float | None = None
) -> ConsiliumError:
    """Return the error of the catalogue that an exception from a handle means. Looks through Ray's wrappers for one of ours first."""
    chain = list(_causes(error))
    for cause in chain:
        if isinstance(cause, ConsiliumError):
            return cause
    for cause in chain:
        if isinstance(cause, TimeoutError):
            return ConsiliumError("deadline", name=executor, seconds=timeout_s, retry_after_s=1.0)
        known = _named(
            {kind.__name__ for kind in type(cause).__mro__},
            f"{type(cause).__name__}: {cause}",
            executor,
        )
        if known is not None:
            return known
    return ConsiliumError("internal", f"executor={executor} {type(error).__name__}: {error}")


def _named(names: set[str], text: str, executor: str) -> ConsiliumError | None:
    """Return what an exception of Ray's or Serve's with these names of classes means, or None for another."""
    if "BackPressureError" in names:
        return ConsiliumError("queue_full", text, name=executor, retry_after_s=1.0)
    if (
        "DeploymentUnavailableError" in names
    ):  # no replica has ever come up, and Serve starts no more of them
        return ConsiliumError("engine_failed", text, name=executor, reason=_GIVEN_UP)
    if names & _DOWN:
        return ConsiliumError("upstream_down", text, name=executor, retry_after_s=5.0)
    if "RayServeException" in names:
        return ConsiliumError("engine_starting", text, name=executor, retry_after_s=2.0)
    return None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        cause = todo.pop(0)
        if not isinstance(cause, BaseException) or cause in found:
            continue
        found.append(cause)
        todo += [getattr(cause, "cause", None), cause.__cause__]
    return found
