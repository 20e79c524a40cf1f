"""Bodies that come packed: gzip, deflate and zstd are opened piece by piece, so that a small body never becomes a large one unseen.

Whoever reads counts what comes out and stops at its limit; a single piece has at most STEP_BYTES, and zstd, whose library gives no such bound, is fed so little at
once that it stays under some MiB. Knows the three formats. Does not know limits or HTTP.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

import zstandard

from consilium.kernel.errors import ConsiliumError

STEP_BYTES: Final = 64 * 1024
_ZSTD_STEP: Final = 64
"""Bytes that zstd is fed at once. Four of them may become a block of 128 KiB."""
_ZSTD_WINDOW: Final = 8 << 20
"""Largest window: what RFC 9659 allows in HTTP."""
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_MEMBERS: Final = 1024
_MEMBER_BYTES: Final = 1024
"""So many members, or frames, any body may have, and one more for each so many bytes of it. An empty one has 9 bytes and costs as much as a large one."""


class Opener(Protocol):
    """Opens one body."""

    def feed(self, packed: bytes) -> Iterator[bytes]:
        """Yield what comes out of the next bytes. Raises ConsiliumError(invalid_request) if they are not of the format."""

    def finish(self) -> None:
        """Raise ConsiliumError(invalid_request) if the end is missing."""


def opener(encoding: str) -> Opener | None:
    """Return what opens a body in this Content-Encoding, or None for a plain one. Raises ConsiliumError(encoding_unknown)."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in _OPENERS:
        known = ", ".join(KNOWN)
        raise ConsiliumError("encoding_unknown", encoding=encoding[:40], known=known)
    return _OPENERS[name](name)


class _Members:
    """Counts the members of one body, so that many empty ones do not hold everybody up."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._size = self._begun = 0

    def feed(self, packed: bytes) -> None:
        """Count bytes that came."""
        self._size += len(packed)

    def begin(self) -> None:
        """Count a member. Raises ConsiliumError(invalid_request) for one too many."""
        self._begun += 1
        if self._begun > _MEMBERS + self._size // _MEMBER_BYTES:
            raise ConsiliumError(
                "invalid_request",
                field="body",
                reason=f"its {self._name} has very many members. Pack it as one",
            )


class _Zlib:
    """gzip, also of several members, and deflate, with zlib's header as the standard says or without it as some clients send."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream: Any = None
        self._is_begun = False
        self._members = _Members(name)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        self._members.feed(packed)
        # In steps, because what stands behind the end of a member is copied.
        for at in range(0, len(packed), STEP_BYTES):
            yield from self._opened(packed[at : at + STEP_BYTES])

    def _opened(self, packed: bytes) -> Iterator[bytes]:
        has_more = True
        while packed or has_more:
            if self._stream is None:
                if not packed or (self._is_begun and not packed.strip(b"\0")):
                    return  # at most padding behind the last member
                self._members.begin()
                self._stream, self._is_begun = zlib.decompressobj(self._bits(packed)), True
            try:
                piece = self._stream.decompress(packed, STEP_BYTES)
            except zlib.error:
                raise _damaged(self._name) from None
            yield piece
            if self._stream.eof:
                packed, self._stream = self._stream.unused_data, None
            else:
                packed = self._stream.unconsumed_tail
            has_more = len(piece) == STEP_BYTES

    def finish(self) -> None:
        if self._stream is not None or not self._is_begun:
            raise _damaged(self._name)

    def _bits(self, packed: bytes) -> int:
        if self._name != "deflate":
            return _GZIP_BITS
        has_header = packed[0] & 0x0F == zlib.DEFLATED and packed[0] >> 4 <= 7
        return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS


class _Zstd:
    """zstd, also of several frames."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._maker = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._stream: Any = None
        self._is_begun = False
        self._members = _Members(name)

    def feed(self, packed: bytes) -> Iterator[bytes]:
        self._members.feed(packed)
        for at in range(0, len(packed), _ZSTD_STEP):
            rest = packed[at : at + _ZSTD_STEP]
            while rest:
                if self._stream is None:
                    self._members.begin()
                    self._stream, self._is_begun = self._maker.decompressobj(), True
                try:
                    yield self._stream.decompress(rest)
                except zstandard.ZstdError:
                    raise _damaged(self._name) from None
                rest = self._stream.unused_data if self._stream.eof else b""
                if self._stream.eof:
                    self._stream = None

    def finish(self) -> None:
        if self._stream is not None or not self._is_begun:
            raise _damaged(self._name)


_OPENERS: Final[Mapping[str, Callable[[str], Opener]]] = {
    "gzip": _Zlib,
    "x-gzip": _Zlib,
    "deflate": _Zlib,
    "zstd": _Zstd,
}
KNOWN: Final = ("gzip", "deflate", "zstd")


def _damaged(name: str) -> ConsiliumError:
    return ConsiliumError(
        "invalid_request",
        field="body",
        reason=f"it is not whole {name}, as its Content-Encoding says. Send it again, or plain",
    )
