"""Processes of one cluster: who they are, what they weigh, how they end.

A process is known by its number and its start time together, and a process of a cluster by the mark in its environment. Nothing is ever ended by name.
Does not know what the processes do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import psutil

from consilium.supervisor.state_folder import Pid

MARK: Final = "CONSILIUM_MARK"
GONE: Final = (psutil.Error, ProcessLookupError, FileNotFoundError)
_PR_SET_CHILD_SUBREAPER: Final = 36
_SHARED: Final = "/dev/shm/"  # noqa: S108  read and removed, never made here
_POLL_S: Final = 0.05
_TICKS: Final = os.sysconf("SC_CLK_TCK")


def become_reaper() -> None:
    """Let orphans of our children become our children, so that none can slip away. Does nothing where Linux is not."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        return
    _ADOPTED.add(os.getpid())


def identify(pid: int) -> Pid | None:
    """Return number and start time of a process, or None if it is gone."""
    started = _started(pid)
    return None if started is None else Pid(pid, started)


def _started(pid: int) -> float | None:
    """Return the start time in seconds since boot (field 22 of stat, which no change of the clock moves), None if gone or a zombie."""
    fields = _stat(pid)
    return None if not fields or fields[0] in {"Z", "X"} else int(fields[19]) / _TICKS


def is_stopped(known: Pid) -> bool:
    """Return True if this very process was stopped (SIGSTOP): it hears SIGKILL and nothing else."""
    fields = _stat(known.pid)
    return bool(fields) and fields[0] in {"T", "t"} and is_alive(known)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the third on; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def boot_id() -> str:
    """Return the name of this run of the machine: numbers and start times of another run mean nothing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def find(known: Pid) -> psutil.Process | None:
    """Return the process, or None if it has ended (also when its number is used by another, or it is a zombie)."""
    try:
        return psutil.Process(known.pid) if is_alive(known) else None
    except psutil.Error:
        return None


def is_alive(known: Pid) -> bool:
    """Return True if this very process runs."""
    return known.pid > 0 and _started(known.pid) == known.started


def descendants(root: Pid) -> tuple[Pid, ...]:
    """Return every process below `root`, itself left out."""
    process = find(root)
    if process is None:
        return ()
    try:
        children = process.children(recursive=True)
    except psutil.Error:
        return ()
    return tuple(known for child in children if (known := identify(child.pid)) is not None)


def marked(mark: str) -> tuple[Pid, ...]:
    """Return every process of this user whose environment carries the mark, ourselves left out."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in _numbers():
        if entry == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in environment and (known := identify(entry)) is not None:
            found.append(known)
    return tuple(found)


def _numbers() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def send(known: Pid, number: signal.Signals) -> bool:
    """Send a signal to this very process. Return False if it is gone."""
    process = find(known)
    if process is None:
        return False
    try:
        process.send_signal(number)
    except (psutil.Error, ProcessLookupError):
        return False
    return True


def wait_gone(known: Iterable[Pid], timeout_s: float) -> tuple[Pid, ...]:
    """Wait until the processes are gone, at most `timeout_s` seconds. Return those that remain."""
    until = time.monotonic() + timeout_s
    remaining = tuple(known)
    while True:
        reap_orphans()
        remaining = tuple(item for item in remaining if is_alive(item))
        if not remaining or time.monotonic() >= until:
            return remaining
        time.sleep(_POLL_S)


def end(known: Iterable[Pid], *, grace_s: float) -> tuple[Pid, ...]:
    """Ask the processes to end, wait `grace_s` seconds, then end them. Return those that are still there, which should be none.

    Those that were stopped cannot hear, so they get no time.
    """
    asked = tuple(item for item in known if send(item, signal.SIGTERM))
    for item in asked:
        if is_stopped(item):
            send(item, signal.SIGKILL)
    remaining = wait_gone(asked, grace_s)
    for item in remaining:
        send(item, signal.SIGKILL)
    return wait_gone(remaining, 5.0)


def reap_orphans() -> None:
    """Collect adopted children that have ended. Children of subprocess are left to their own objects; so is everything in a process that adopts none."""
    if os.getpid() not in _ADOPTED:
        return
    for child in psutil.Process().children():
        try:
            if child.pid not in _OWNED and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
        except (psutil.Error, ChildProcessError):
            continue


def orphans() -> tuple[Pid, ...]:
    """Return adopted children with everything below them: what a part that has died was the parent of. Empty in a process that adopts none."""
    if os.getpid() not in _ADOPTED:
        return ()
    adopted = [
        known
        for child in psutil.Process().children()
        if child.pid not in _OWNED and (known := identify(child.pid)) is not None
    ]
    return tuple(dict.fromkeys(item for known in adopted for item in (known, *descendants(known))))


_OWNED: Final[set[int]] = set()
_ADOPTED: Final[set[int]] = set()


def own(pid: int) -> None:
    """Note a child that subprocess.Popen waits for."""
    _OWNED.add(pid)


def shared_memory(known: Iterable[Pid]) -> frozenset[Path]:
    """Return the files in /dev/shm that the processes have mapped: a process that is killed leaves them behind.

    Found by inode: who makes a semaphore has it mapped under another name than it bears (glibc makes it under a passing one and links it).
    """
    inodes: set[int] = set()
    for item in known:
        try:
            maps = Path(f"/proc/{item.pid}/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        rows = (line.split(maxsplit=5) for line in maps.splitlines())
        inodes.update(int(row[4]) for row in rows if len(row) == 6 and row[5].startswith(_SHARED))
    if not inodes:
        return frozenset()
    with os.scandir(_SHARED) as entries:
        return frozenset(Path(entry.path) for entry in entries if entry.inode() in inodes)


def remove_shared(files: Iterable[Path]) -> None:
    """Remove what ended processes left in /dev/shm. Call it when all who had it mapped are gone."""
    for path in files:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def pss_bytes(known: Iterable[Pid]) -> int:
    """Return the proportional memory of the processes in bytes (shared pages are counted once, spread over their users)."""
    total = 0
    for item in known:
        process = find(item)
        if process is None:
            continue
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total
