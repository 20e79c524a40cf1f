"""TableService: streams a room's tables to whoever follows them. kernel/table_client.py is the other end.

Wire <-> kernel/tables.py, nothing else. The rows of every tenant are in a table, so only the cluster itself may follow one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final

from consilium.kernel import calls
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.grpc_server import Service
from consilium.kernel.principals import ADMIN, Principal
from consilium.kernel.rooms import TABLE_SERVICE
from consilium.kernel.tables import Table, Update, pieces
from consilium.v1 import tables_pb2 as pb
from consilium.v1 import tables_pb2_grpc as rpc

HEARTBEAT_S: Final = 5.0


class TableServicer(rpc.TableServiceServicer):
    """Serves the tables of one room."""

    def __init__(self, tables: Iterable[Table], *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._tables = {table.name: table for table in tables}
        self._heartbeat_s = heartbeat_s
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End every stream and begin no new one: they would hold up the drain. Followers keep what they have."""
        self._closing.set()

    async def WatchTable(  # noqa: N802  the name in the proto
        self,
        request: pb.WatchTableRequest,
        context: Any,  # noqa: ARG002  gRPC's own signature
    ) -> AsyncIterator[pb.WatchTableResponse]:
        """Send the table unless the caller has it, then each change, and a heartbeat when nothing happens."""
        table = self._named(request.name)
        if self._closing.is_set():
            raise ConsiliumError("upstream_down", name="The table's room", retry_after_s=1.0)
        epoch, version, is_first = request.epoch, request.version, True
        while not self._closing.is_set():
            changed = table.next_change()
            update = table.since(epoch, version)
            if update is not None or is_first:
                sent = update or table.heartbeat(version)
                for piece in pieces(sent):
                    yield _message(piece)
                epoch, version, is_first = sent.epoch, sent.version, False
            elif not await self._any(changed):
                # Of what was sent here: the table may have changed since the wait was over.
                yield _message(table.heartbeat(version))

    def _named(self, name: str) -> Table:
        principal = calls.current().principal
        if isinstance(principal, Principal) and not principal.may(ADMIN):
            raise ConsiliumError("forbidden", reason="Only the cluster itself follows a table.")
        table = self._tables.get(name)
        if table is None:
            known = ", ".join(sorted(self._tables)) or "none"
            raise ConsiliumError(
                "invalid_request",
                field="name",
                reason=f"there is no table {name[:80]!r}; there is {known}",
            )
        return table

    async def _any(self, changed: asyncio.Event) -> bool:
        """Wait for a change or the end; returns False if a heartbeat is due first."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (changed, self._closing)]
        try:
            done, _ = await asyncio.wait(
                waiting, timeout=self._heartbeat_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in waiting:
                task.cancel()
        return bool(done)


def service(servicer: TableServicer) -> Service:
    """Return the service as the kernel's server takes it."""
    add: Callable[[Any], None] = lambda server: rpc.add_TableServiceServicer_to_server(  # noqa: E731
        servicer, server
    )
    return Service(TABLE_SERVICE, add)


def _message(update: Update) -> pb.WatchTableResponse:
    return pb.WatchTableResponse(
        epoch=update.epoch,
        version=update.version,
        whole=update.whole,
        changed=[pb.TableRow(key=key, value_json=text) for key, text in update.changed.items()],
        removed=update.removed,
        more=update.more,
    )
