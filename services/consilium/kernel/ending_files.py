"""Files beside the configuration by which a cluster on one machine, or a pod, says that it is being stopped. Whoever wants to know looks for them there.

A pod's folder outlives its containers: one that was ended and started again finds the file of its former life, which says nothing about this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DRAINING: Final = "draining"
"""First: parts that claim work take none any more."""
CLOSING: Final = "closing"
"""A moment later: the gateway refuses new requests."""
_FIRST_PROCESS: Final = Path("/proc/1/stat")
_BEGAN: Final = 19
"""Place of the time at which a process began (proc_pid_stat(5), starttime), counted behind its name."""


def life(first: Path = _FIRST_PROCESS) -> str:
    """Return what tells this life of a container from its next one: when its first process began. Empty where the kernel does not say."""
    try:
        return (
            first.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[_BEGAN]
        )
    except (OSError, IndexError):
        return ""


def is_closing(file: Path) -> bool:
    """Say whether the file is there and meant for us: an empty one is, and one that names this life."""
    try:
        return file.read_text(encoding="ascii", errors="replace").strip() in ("", life())
    except OSError:
        return False
