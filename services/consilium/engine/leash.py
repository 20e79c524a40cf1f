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
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

VARIABLE: Final = "CSL_LEASH"
"""Set in the replica before it starts anything, so that all below it inherit it. Not CONSILIUM_: those are keys of the configuration."""
GRACE_S: Final = 3.0
TRACKER_S: Final = 2.0
_POLL_S: Final = 0.05
_PYTHONS: Final = ("sem.mp-", "psm_")
_SHARED: Final = "/dev/shm/"  # noqa: S108  read and removed, never made here


def tie(name: str) -> subprocess.Popen[bytes]:
    """Start the process that waits for the end of this one. Keep what is returned: it holds the pipe."""
    command = [sys.executable, "-I", "-S", __file__, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603  # our own file


def remember(kept: subprocess.Popen[bytes]) -> None:
    """Tell what this process, and those tied to it, have in /dev/shm. The leash removes it at the end: whoever kills a replica may kill the tracker beside it.

    kept  what `tie` returned
    """
    name = str(kept.args[-1]) if isinstance(kept.args, list) else ""
    if kept.stdin is not None:
        with suppress(OSError):
            kept.stdin.writelines(
                os.fsencode(path) + b"\n" for path in shared((os.getpid(), *tied(name)))
            )
            kept.stdin.flush()


def shared(pids: Iterable[int]) -> frozenset[Path]:
    """Return Python's files in /dev/shm that these processes have mapped, by inode: a semaphore is mapped under a passing name. Ray's are its own."""
    inodes: set[int] = set()
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace").splitlines()
            rows = (line.split(maxsplit=5) for line in lines)
            inodes.update(int(row[4]) for row in rows if row[5:] and row[5].startswith(_SHARED))
    with suppress(OSError), os.scandir(_SHARED) as entries:
        return frozenset(
            Path(entry.path)
            for entry in entries
            if entry.name.startswith(_PYTHONS) and entry.inode() in inodes
        )
    return frozenset()


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
    told = sys.stdin.buffer.read().splitlines()
    end(name)
    for path in told:
        if path.startswith(os.fsencode(_SHARED)):
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108  bytes, as they came


if __name__ == "__main__":
    _main(sys.argv[1])
