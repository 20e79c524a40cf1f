"""A small process beside a replica: when the replica is gone, however it went, it ends what the replica has left.

vLLM's engine core does not notice that the process that started it was killed: it lives on with its workers, and on a GPU the next replica finds the card taken.

    replica   tie(name)  -- a pipe that only the replica holds -->  python leash.py NAME
    its end   end of file on the pipe                               every process with VARIABLE=NAME in its environment is ended

Uses the standard library only and is started as a file, so that it costs some 10 MB and no import. Knows processes by their environment, as Linux tells it. Does
not know engines.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "CSL_LEASH"
"""Set in the replica before it starts anything, so that all below it inherit it. Not CONSILIUM_: those are keys of the configuration."""
GRACE_S: Final = 3.0
TRACKER_S: Final = 2.0
_POLL_S: Final = 0.05


def tie(name: str) -> subprocess.Popen[bytes]:
    """Start the process that waits for the end of this one. Keep what is returned: it holds the pipe."""
    command = [sys.executable, "-I", "-S", __file__, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  # our own file


def tied(name: str) -> tuple[int, ...]:
    """Return the processes that carry this name, ourselves left out; one that has ended and was not collected yet carries none."""
    wanted = f"{VARIABLE}={name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return tuple(found)


def end(
    name: str, grace_s: float = GRACE_S, *, look: Callable[[str], tuple[int, ...]] = tied
) -> None:
    """Ask the processes to end, wait `grace_s` seconds, then end them.

    Python's resource tracker goes last: once those that it watches are gone it removes their semaphores and shared memory, and then ends by itself.
    """
    until = time.monotonic() + grace_s
    asked: set[int] = set()
    while (left := look(name)) and time.monotonic() < until:
        for pid in left:
            if pid not in asked:
                _send(pid, signal.SIGTERM)
                asked.add(pid)
        time.sleep(_POLL_S)
    for pid in left:
        if not _is_tracker(pid):
            _send(pid, signal.SIGKILL)
    until = time.monotonic() + TRACKER_S
    while (left := look(name)) and time.monotonic() < until:
        time.sleep(_POLL_S)
    for pid in left:
        _send(pid, signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    with suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _main(name: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the replica does, and never before
    sys.stdin.buffer.read()
    end(name)


if __name__ == "__main__":
    _main(sys.argv[1])
