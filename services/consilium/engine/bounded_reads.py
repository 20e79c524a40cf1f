"""File work that may never come back: a network share whose server is gone, a disk that dies.

    reads = BoundedReads(silent_s=30.0)
    found = await reads.of(folder, lambda beat: content_sha(folder, beat=beat))

Each piece of work has a thread of its own, which says at each step that it goes on. One that is silent for too long is left behind, and whoever waits is told which
path it was and for how long. A thread in such a call cannot be ended: while it hangs, its path is refused at once. No more than MOST_LEFT run at a time, for each may
hang; the others wait for their turn.
Does not know what is read.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar

from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

T = TypeVar("T")
Beat: TypeAlias = Callable[[], None]
"""Called by a thread whenever it has come a step further."""

SILENT_S: Final = 30.0
MOST_LEFT: Final = 4
"""Threads that run at once, so that no more can hang. No further one is started until one of them comes back."""

_log = logs.get("engine")


class _Work:
    """One piece of work. `heard` is when it last said that it goes on, on the monotonic clock."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.heard = time.monotonic()

    def beat(self) -> None:
        self.heard = time.monotonic()


class BoundedReads:
    """The reads of one disk. Not for several event loops."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self.silent_s = silent_s
        self._under_way: set[_Work] = set()
        self._places = asyncio.Semaphore(MOST_LEFT)

    @property
    def left(self) -> tuple[str, ...]:
        """Return the paths whose reads hang."""
        now = time.monotonic()
        return tuple(work.path for work in self._under_way if now - work.heard >= self.silent_s)

    async def of(self, path: object, read: Callable[[Beat], T]) -> T:
        """Return what `read` returns. It runs in a thread and is called with what it calls at each step.

        path  what is read, for whoever is told that it hangs

        Raises what `read` raises, and ConsiliumError(disk_silent).
        """
        name = str(path)
        await self._turn(name)
        work = _Work(name)
        came = self._begun(work, read)
        try:
            while not came.done():
                silent = time.monotonic() - work.heard
                if silent >= self.silent_s:
                    raise _silent(name, self.silent_s)
                await asyncio.wait({came}, timeout=self.silent_s - silent)
            return came.result()
        finally:
            if not came.cancel() and not came.cancelled():
                came.exception()  # seen, also where nobody waits for it any more

    async def _turn(self, name: str) -> None:
        """Return with a place for one more thread. Raises ConsiliumError(disk_silent) where its path hangs, or as soon as all threads do."""
        while True:
            self._demand_answers(name)
            heard = min((work.heard for work in self._going()), default=time.monotonic())
            try:
                async with asyncio.timeout(max(0.01, heard + self.silent_s - time.monotonic())):
                    await self._places.acquire()
            except TimeoutError:
                continue
            try:
                self._demand_answers(name)
            except ConsiliumError:
                self._places.release()
                raise
            return

    def _demand_answers(self, name: str) -> None:
        left = self.left
        if name in left or len(left) >= MOST_LEFT:
            raise _silent(name if name in left else left[0], self.silent_s)

    def _going(self) -> tuple[_Work, ...]:
        """Return the reads that do not hang."""
        now = time.monotonic()
        return tuple(work for work in self._under_way if now - work.heard < self.silent_s)

    def _begun(self, work: _Work, read: Callable[[Beat], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[T] = loop.create_future()
        self._under_way.add(work)

        def tell(result: Any, error: BaseException | None) -> None:
            self._under_way.discard(work)
            self._places.release()
            if came.done():  # nobody waits any more
                return
            if error is None:
                came.set_result(result)
            else:
                came.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = read(work.beat)
            except BaseException as caught:  # whoever waits is told
                error = caught
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, result, error)

        threading.Thread(target=run, daemon=True, name="adapter file").start()
        return came


def _silent(path: str, seconds: float) -> ConsiliumError:
    _log.error("disk_silent", path=path, seconds=round(seconds, 1))
    return ConsiliumError("disk_silent", path, seconds=f"{seconds:g}", retry_after_s=5.0)
