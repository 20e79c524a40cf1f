"""W3C Trace Context: which trace of a caller's a request belongs to, handed on from hop to hop and written on log lines beside the request id.

    traceparent: 00-<trace id, 32 digits>-<parent id, 16 digits>-<flags, 2 digits>
    tracestate:  vendor=value,other@vendor=value

Nothing here records spans, so the parent stays the caller's own span: what comes behind us hangs below it, and not below one that nobody has. A header that is not
valid is no error: the request then begins a trace of its own, which is not sampled. Knows the two headers. Does not know HTTP or gRPC.
Source: https://www.w3.org/TR/trace-context-1/, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

PARENT_KEY: Final = "traceparent"
STATE_KEY: Final = "tracestate"
KEYS: Final = frozenset({PARENT_KEY, STATE_KEY})
"""Names of headers and metadata that carry a trace: what a caller sends is read once, and what we hand on is written here."""

MOST_MEMBERS: Final = 32
LONGEST_STATE: Final = 512
"""Characters of a tracestate that are handed on; of a longer one, whole members."""
LONG_MEMBER: Final = 128
"""Members that are longer are dropped first."""
_SAMPLED: Final = 0x01

_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in a trace a request stands.

    parent_id  span of whoever asked
    flags      two digits; the last bit says that the caller records
    state      what vendors say of it
    """

    trace_id: str
    parent_id: str
    flags: str = "00"
    state: str = ""

    def headers(self) -> dict[str, str]:
        """Return the headers, or metadata, for the next hop."""
        told = {PARENT_KEY: f"00-{self.trace_id}-{self.parent_id}-{self.flags}"}
        return told | {STATE_KEY: self.state} if self.state else told


_current: ContextVar[Trace | None] = ContextVar("consilium_trace", default=None)


def of(pairs: Iterable[tuple[str | bytes, str | bytes]]) -> Trace:
    """Return the trace that headers or metadata name, or a new one where they name none.

    pairs  names and values as they came, in any case; other names are left alone
    """
    parents, states = [], []
    for name, value in pairs:
        key = _text(name).lower()
        if key == PARENT_KEY:
            parents.append(_text(value))
        elif key == STATE_KEY:
            states.append(_text(value))
    if not parents:
        return new()
    return _read(parents, states) or new()


def new() -> Trace:
    """Return a trace that begins here. It is not sampled: nobody here records."""
    return Trace(secrets.token_hex(16), secrets.token_hex(8))


def current() -> Trace | None:
    """Return the trace of the request that this task works for, or None."""
    return _current.get()


def headers() -> dict[str, str]:
    """Return the headers, or metadata, that hand on the trace of this task; none where it works for no request."""
    trace = _current.get()
    return trace.headers() if trace is not None else {}


def enter(trace: Trace) -> None:
    """Say which trace this task works for, until it ends."""
    _current.set(trace)


@contextmanager
def entered(trace: Trace) -> Iterator[None]:
    """Say which trace the block works for."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def _read(parents: list[str], states: list[str]) -> Trace | None:
    """Return the trace of valid headers, else None. A tracestate that is not valid is dropped alone."""
    found = _PARENT.fullmatch(parents[0].strip(" \t")) if len(parents) == 1 else None
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == "ff" or not trace_id.strip("0") or not parent_id.strip("0"):
        return None
    if version == "00":
        return None if more else Trace(trace_id, parent_id, flags, _state(states))
    sampled = int(flags, 16) & _SAMPLED  # of a later version we know this flag only
    return Trace(trace_id, parent_id, f"{sampled:02x}", _state(states))


def _state(states: list[str]) -> str:
    """Return a tracestate as it is handed on; empty if it is not valid."""
    members = [member.strip(" \t") for text in states for member in text.split(",")]
    members = [member for member in members if member]
    read = [_MEMBER.fullmatch(member) for member in members]
    keys = {one["key"] for one in read if one is not None}
    if len(members) > MOST_MEMBERS or len(keys) < len(members):  # one is wrong, or twice there
        return ""
    while len(",".join(members)) > LONGEST_STATE:
        long = [at for at, member in enumerate(members) if len(member) > LONG_MEMBER]
        del members[long[-1] if long else -1]
    return ",".join(members)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
