"""Which log files of Ray's session belong to which part.

Ray writes the name of the actor into the first lines of each worker's log. Knows that form and the names of our Serve applications.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_ACTOR: Final = re.compile(rb"^:actor_name:(\S+)", re.MULTILINE)
_REASON: Final = re.compile(
    r'\bevent=engine_start_failed .*?\breason=(?:"((?:[^"\\]|\\.)*)"|(\S+))'
)
_HEAD_BYTES: Final = 4096
_RAY_FILES: Final = ("gcs_server.err", "raylet.err", "ray_process_exit.log")


def part_of_actor(actor: str) -> str:
    """Return the part that an actor belongs to: engine, gateway, or ray for everything that is Ray's and Serve's own."""
    if actor.startswith("ServeReplica:executor-"):
        return "engine"
    if actor.startswith("ServeReplica:gateway"):
        return "gateway"
    return "engine" if not actor.startswith(("Serve", "Proxy", "HAProxy")) else "ray"


def worker_logs(ray_temp: Path, part: str) -> tuple[Path, ...]:
    """Return the files of one part in the latest session, oldest first; empty files are left out."""
    if part not in {"ray", "engine", "gateway"}:
        return ()
    folder = ray_temp / "session_latest" / "logs"
    found = [path for path in folder.glob("worker-*") if _part_of_file(path) == part]
    if part == "ray":
        found += [folder / name for name in _RAY_FILES]
    return tuple(
        sorted((path for path in found if _size(path) > 0), key=lambda path: path.stat().st_mtime)
    )


def why_not_started(ray_temp: Path) -> str:
    """Return the reason that an engine of this machine gave last for not starting; '' where none did."""
    found = ""
    for path in worker_logs(ray_temp, "engine"):
        try:
            said = _REASON.findall(path.read_text("utf-8", "replace"))
        except OSError:
            continue
        found = "".join(said[-1]) if said else found
    return re.sub(r"\\(.)", r"\1", found)


def _part_of_file(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    name = _ACTOR.search(head)
    if name is None or len(_said(head)) == 0:
        return None
    return part_of_actor(name.group(1).decode("utf-8", "replace"))


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
