"""The figures of all processes of one node, which lie in the files of PROMETHEUS_MULTIPROC_DIR, on one page.

Knows the files of prometheus_client and which process wrote them. Does not know what they count.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector


def page_of(folder: Path, *, sees_processes: bool = True) -> str:
    """Return the sum of all processes whose values lie in a folder, in the text format; empty before there are any.

    sees_processes  whether they have the same numbers here as where they run. In another container of a pod they have others, or none: then nobody is taken for ended

    Counters and histograms of ended processes stay in the sum, so it never falls. Their gauges are taken out.
    """
    if sees_processes:
        forget_ended(folder)
    if not any(folder.glob("*.db")):
        return ""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry).decode()


def forget_ended(folder: Path) -> None:
    """Remove the gauges of processes that have ended, one that had the number of this process among them."""
    for file in folder.glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", file.name)
        if found is not None and not (_is_alive(int(found[1])) and _holds(int(found[1]), file)):
            file.unlink(missing_ok=True)


def _holds(pid: int, file: Path) -> bool:
    """Return False if the process of this number does not have the file mapped: it is another one, which got the number of one that ended."""
    try:
        return str(file.resolve()) in Path(f"/proc/{pid}/maps").read_text(
            encoding="utf-8", errors="replace"
        )
    except OSError:
        return True  # not ours to read, or a system without /proc


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
