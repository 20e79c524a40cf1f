"""Which log files of Ray's session belong to which part.

Ray writes the name of the actor into the first lines of each worker's log. Knows that form. Which actors belong to which part stands in the table (parts.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ACTOR: Final = re.compile(rb"^:actor_name:(\S+)", re.MULTILINE)
_REASON: Final = re.compile(
    r'\bevent=engine_start_failed .*?\breason=(?:"((?:[^"\\]|\\.)*)"|(\S+))'
)
_HEAD_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class RayLogs:
    """What Ray writes for one part.

    actors  beginnings of the names of its actors, such as `ServeReplica:gateway`; the longest that fits decides, and the empty one fits all
    files   further files of the session
    """

    actors: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


def part_of_actor(actor: str, logs: Mapping[str, RayLogs]) -> str | None:
    """Return the part that an actor belongs to, or None."""
    fitting = [
        (len(begin), part)
        for part, mine in logs.items()
        for begin in mine.actors
        if actor.startswith(begin)
    ]
    return max(fitting)[1] if fitting else None


def worker_logs(ray_temp: Path, part: str, logs: Mapping[str, RayLogs]) -> tuple[Path, ...]:
    """Return the files of one part in the latest session, oldest first; empty files are left out."""
    mine = logs.get(part)
    if mine is None or not (mine.actors or mine.files):
        return ()
    folder = ray_temp / "session_latest" / "logs"
    found = []
    for path in folder.glob("worker-*"):
        actor = _actor_of(path)
        if actor is not None and part_of_actor(actor, logs) == part:
            found.append(path)
    found += [folder / name for name in mine.files]
    return tuple(
        sorted((path for path in found if _size(path) > 0), key=lambda path: path.stat().st_mtime)
    )


def why_not_started(ray_temp: Path) -> str:
    """Return the reason that an engine of this machine gave last for not starting; '' where none did."""
    found = ""
    files = (ray_temp / "session_latest" / "logs").glob("worker-*")
    for path in sorted((path for path in files if _size(path)), key=lambda p: p.stat().st_mtime):
        try:
            said = _REASON.findall(path.read_text("utf-8", "replace"))
        except OSError:
            continue
        found = "".join(said[-1]) if said else found
    return re.sub(r"\\(.)", r"\1", found)


def _actor_of(path: Path) -> str | None:
    """Return the actor that wrote a file; None for a file of none, and for one that says nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    name = _ACTOR.search(head)
    if name is None or len(_said(head)) == 0:
        return None
    return name.group(1).decode("utf-8", "replace")


def _said(head: bytes) -> bytes:
    """Return what is left of a log without Ray's own marks: a file that holds nothing else is not worth showing."""
    return b"\n".join(
        line
        for line in head.splitlines()
        if line and not line.startswith((b":job_id:", b":actor_name:", b":task_name:"))
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
