"""A body that goes to a room's disk, and goes on where it broke off: offsets, and the writing.

    HEAD                                     how many bytes are there, so that the caller knows where to go on
    PUT ?offset=N                            the body continues at byte N
    PUT Content-Range: bytes N-M/TOTAL       the same, as HTTP spells it
    PUT                                      from the beginning

What has come stays when the caller leaves. Knows ASGI messages, files and offsets. Does not know who may write where.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import parse_qs

from consilium.kernel.disk_quota import Account
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.http_server import Receive, Scope

PIECE_BYTES: Final = 1 << 20
"""Bytes that are written at once: few enough to hold, many enough that the thread which writes them costs nothing."""
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


def offset_of(scope: Scope) -> int:
    """Return the byte at which the body of a request begins. Raises ConsiliumError(invalid_request) if that is not spelled well."""
    named = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("offset", [])
    ranges = [value for name, value in scope["headers"] if name == b"content-range"]
    if ranges:
        found = _RANGE.fullmatch(ranges[0].decode("latin-1"))
        if found is None:
            raise ConsiliumError(
                "invalid_request", field="content-range", reason="write bytes FIRST-LAST/TOTAL"
            )
        return int(found[1])
    if named and not (named[0].isascii() and named[0].isdecimal() and len(named[0]) <= 19):
        raise ConsiliumError("invalid_request", field="offset", reason="it is a number of bytes")
    return int(named[0]) if named else 0


class Uploads:
    """Writes bodies into files, one body into a file at a time."""

    def __init__(self) -> None:
        self._busy: set[Path] = set()

    async def receive(
        self, file: Path, offset: int, receive: Receive, *, limit: int, account: Account
    ) -> int:
        """Write a body into a file from an offset on, and return the size of the file, which is on the disk then.

        offset   at most as many bytes as are there; what lies behind it is thrown away
        limit    bytes that the file may have
        account  pays for each byte before it is written

        Raises ConsiliumError: conflict (bytes before the offset are missing, or another body is on its way), body_too_large, storage_quota, disk_full,
        client_gone (what has come is kept in all of these).
        """
        there = size_of(file)
        if offset > there:
            raise ConsiliumError(
                "conflict",
                reason=f"The file has {there} bytes: go on at offset {there}, not {offset}.",
            )
        if file in self._busy:
            raise ConsiliumError("conflict", reason="Another upload of this file is on its way.")
        self._busy.add(file)
        try:
            with file.open("r+b" if there else "wb") as out:
                out.truncate(offset)
                account.give(there - offset)
                out.seek(offset)
                size = await _write(out, receive, limit, account)
                await asyncio.to_thread(_to_disk, out)
        except OSError as err:
            account.measure()
            if err.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise ConsiliumError("disk_full", str(err)) from err
            raise
        finally:
            self._busy.discard(file)
        return size


def size_of(file: Path) -> int:
    """Return the bytes that have come of a file; 0 if there is none."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


async def _write(out: BinaryIO, receive: Receive, limit: int, account: Account) -> int:
    size, held = out.tell(), bytearray()
    while True:
        message = await receive()
        is_gone = message["type"] == "http.disconnect"
        held += message.get("body", b"")
        more = not is_gone and message.get("more_body", False)
        if size + len(held) > limit:
            raise ConsiliumError(
                "body_too_large", size=size + len(held), key="this upload", limit=limit
            )
        if len(held) >= PIECE_BYTES or not more:
            account.take(len(held))
            await asyncio.to_thread(out.write, held)
            size, held = size + len(held), bytearray()
        if is_gone:
            raise ConsiliumError("client_gone", f"{size} bytes have come")
        if not more:
            return size


def _to_disk(out: BinaryIO) -> None:
    out.flush()
    os.fsync(out.fileno())
