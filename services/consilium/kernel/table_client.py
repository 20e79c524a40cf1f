"""Follows one table of another service: the last one is kept, whatever happens to the room that holds it.

    follower = TableFollower(lambda: house.channel("lora_router"), "adapters", on_change=index)
    task = asyncio.create_task(follower.run())
    follower.rows["legal"]["sha"]; follower.version; follower.age_s; follower.is_live

Knows the wire of TableService. Does not know what the rows mean.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Final, TypeAlias

from consilium.kernel import logs
from consilium.kernel.clock import Clock, SystemClock
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_channel import Channel
from consilium.kernel.principals import CLUSTER
from consilium.kernel.tables import Assembly, Held, Row, TornError, Update
from consilium.v1 import tables_pb2 as pb
from consilium.v1 import tables_pb2_grpc as rpc

SILENCE_S: Final = 15.0
"""Three heartbeats. A room that says nothing for so long hangs, or the network between has gone: the stream is begun anew."""
STREAM_S: Final = 3600.0
"""Deadline of one stream; the next goes on where it ended."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 2.0

OnChange: TypeAlias = Callable[[Held, frozenset[str]], None]
"""Takes what is held now, and the keys of all rows that are new, different or gone."""


class TableFollower:
    """Holds the last version of one table.

    channel    opens the channel; called once, when `run` begins
    name       of the table
    on_change  called after each change, in the task that runs `run`; what it raises is logged and stops nothing
    """

    def __init__(
        self,
        channel: Callable[[], Channel],
        name: str,
        *,
        on_change: OnChange = lambda _held, _touched: None,
        clock: Clock | None = None,
        silence_s: float = SILENCE_S,
        stream_s: float = STREAM_S,
    ) -> None:
        self.name = name
        self._open = channel
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._silence_s = silence_s
        self._stream_s = stream_s
        self._held = Held()
        self._heard: float | None = None
        self._is_connected = False
        self._first = asyncio.Event()
        self._log = logs.StateLog(logs.get("table"))

    @property
    def held(self) -> Held:
        """Epoch, version and rows, which belong together. The value never changes; a change brings another one."""
        return self._held

    @property
    def rows(self) -> Mapping[str, Row]:
        """The rows by key, empty before the first message."""
        return self._held.rows

    @property
    def version(self) -> int:
        """Version of the rows within their epoch."""
        return self._held.version

    @property
    def age_s(self) -> float | None:
        """Seconds since the room said last that this is its table, or None if it never did."""
        return None if self._heard is None else self._clock.monotonic() - self._heard

    @property
    def is_live(self) -> bool:
        """Whether the room is connected and has spoken lately: what is held is what it has."""
        age_s = self.age_s
        return self._is_connected and age_s is not None and age_s <= self._silence_s

    async def wait_first(self) -> None:
        """Return when the table has come once."""
        await self._first.wait()

    async def run(self) -> None:
        """Follow the table until cancelled. A room that is away is asked again and again, more slowly."""
        pause_s = FIRST_PAUSE_S
        async with self._open() as channel:
            while True:
                before = self._heard
                error = await self._follow(channel)
                if self._heard != before:
                    pause_s = FIRST_PAUSE_S
                if error is not None:
                    self._is_connected = False
                    self._log.tell(f"table {self.name}", up=False, reason=str(error))
                    await self._clock.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  spreads callers over time
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _follow(self, channel: Channel) -> Exception | None:
        """Follow one stream to its end. Returns why it broke, or None if its deadline was up."""
        request = pb.WatchTableRequest(
            name=self.name, epoch=self._held.epoch, version=self._held.version
        )
        assembly = Assembly()
        watch = rpc.TableServiceStub(channel.raw).WatchTable
        try:
            async with aclosing(
                channel.listen(watch, request, timeout_s=self._stream_s, principal=CLUSTER)
            ) as messages:
                while True:
                    async with asyncio.timeout(self._silence_s):
                        message = await anext(messages)
                    self._take(assembly, _update(message))
        except ConsiliumError as error:
            return None if error.code == "deadline" and self._is_connected else error
        except StopAsyncIteration:
            return ConsiliumError("upstream_down", "it ended the stream", name=self.name)
        except TimeoutError:
            return ConsiliumError("deadline", name=self.name, seconds=self._silence_s)
        except (TornError, ValueError) as error:
            self._held = Held("", 0, self._held.rows)
            return error

    def _take(self, assembly: Assembly, update: Update) -> None:
        taken = assembly.take(self._held, update)
        if taken is None:
            return
        self._heard = self._clock.monotonic()
        self._is_connected = True
        self._log.tell(f"table {self.name}", up=True)
        self._held, touched = taken
        self._first.set()
        if touched:
            try:
                self._on_change(self._held, touched)
            except Exception:
                logs.get("table").exception("table_change_broke", table=self.name)


def _update(message: pb.WatchTableResponse) -> Update:
    return Update(
        message.epoch,
        message.version,
        message.whole,
        {row.key: row.value_json for row in message.changed},
        tuple(message.removed),
        message.more,
    )
