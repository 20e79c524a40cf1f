"""Whose process is on a card: from the driver's pid to one of our executors, by the names that Ray gives to its workers.

Pure over a view of /proc. Does not know NVML.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_REPLICA: Final = re.compile(r"^ray::ServeReplica:executor-([a-z0-9][a-z0-9._-]*):")
_MOST_STEPS: Final = 16
OTHER: Final = "other"
"""A process that is none of ours, such as a desktop."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who uses a card.

    executor  name of one of our executors, or OTHER
    replica   pid of its replica, as this machine counts
    """

    executor: str = OTHER
    replica: str = ""


@dataclass(frozen=True, slots=True)
class Proc:
    """One process: its parent, and its command line or title."""

    parent: int
    words: str


def owner_of(pid: int, look: Callable[[int], Proc | None]) -> Owner:
    """Return whose a process is: its own title or that of one of its parents names a replica.

    look  pid -> process, or None if there is none (any more)
    """
    for _ in range(_MOST_STEPS):
        found = look(pid)
        if found is None:
            break
        if named := _REPLICA.match(found.words):
            return Owner(named[1], str(pid))
        if found.parent <= 1:
            break
        pid = found.parent
    return Owner()


def from_proc(root: Path = Path("/proc")) -> Callable[[int], Proc | None]:
    """Return a look at the processes of this machine."""

    def look(pid: int) -> Proc | None:
        folder = root / str(pid)
        try:
            status = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            words = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            )
            return Proc(int(status.rpartition(")")[2].split()[1]), words.strip())
        except (OSError, ValueError, IndexError):
            return None

    return look
