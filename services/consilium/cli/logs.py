"""`consilium logs [part] [-f] [-n N]`: what the parts said, engines and gateway replicas included."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from consilium.cli.app import EXIT_USAGE, complain
from consilium.cli.endpoint import add_state, folder_of
from consilium.kernel.config_refusal import no_such
from consilium.kernel.errors import ConsiliumError
from consilium.supervisor.parts import OURS, SUPERVISOR, ray_logs_of
from consilium.supervisor.ray_logs import worker_logs
from consilium.supervisor.state_folder import StateFolder

_POLL_S: Final = 0.2


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("logs", help="Show what the parts said.")
    parser.add_argument(
        "part", nargs="?", help="one part, as 'consilium status' names it; without it, all"
    )
    parser.add_argument(
        "-n", type=int, default=50, metavar="LINES", help="last lines of each file (default 50)"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing what comes")
    add_state(parser)


def run(args: argparse.Namespace) -> int:
    """Print the ends of the log files. Returns 2 if there is no part of that name."""
    folder = folder_of(args)
    known = places_of(folder)
    if args.part and args.part not in known:
        sentence, _ = no_such(args.part, "part", known)
        complain(sentence)
        return EXIT_USAGE
    chosen = (known[args.part],) if args.part else tuple(dict.fromkeys(known.values()))
    files = {path: part for part in chosen for path in files_of(folder, part)}
    if not files and not args.follow:
        raise ConsiliumError("not_running", "there are no logs", state=str(folder.root))
    ends = {
        path: _show_tail(path, args.n, _title(path, part, several=len(files) > 1))
        for path, part in files.items()
    }
    if not any(ends.values()) and not args.follow:
        print(f"Nothing was written yet to {', '.join(map(str, files))}.", file=sys.stderr)
    if args.follow:
        _follow(folder, chosen, ends)
    return 0


def places_of(folder: StateFolder) -> dict[str, str]:
    """Return the parts of this cluster -> the part whose log tells of it, in the order of the table; the supervisor is the last.

    The table knows our own parts, cluster.json the rooms of a running cluster, and the folder of logs those that ran before.
    """
    try:
        cluster = folder.read_cluster()
    except ConsiliumError:
        cluster = None  # its logs are wanted all the more
    told = {row.name: row.log or row.name for row in OURS}
    if cluster is not None:
        told |= {name: part.log or name for name, part in cluster.parts.items()}
    for path in sorted(folder.logs.glob("*.log")):
        told.setdefault(path.stem, path.stem)
    return {part: log for part, log in told.items() if part != SUPERVISOR} | {
        SUPERVISOR: SUPERVISOR
    }


def files_of(folder: StateFolder, part: str) -> tuple[Path, ...]:
    """Return the log files of one part: our own, and what Ray's workers wrote for it."""
    own = folder.log(part)
    return (*((own,) if own.exists() else ()), *worker_logs(folder.ray_logs, part, ray_logs_of()))


def _title(path: Path, part: str, *, several: bool) -> str:
    return f"==> {part}: {path}" if several else ""


def _show_tail(path: Path, count: int, title: str) -> int:
    """Print the last lines of a file. Return its length in bytes."""
    try:
        data = path.read_bytes()
    except OSError:
        return 0
    lines = data.decode("utf-8", "replace").splitlines()[-count:] if count > 0 else []
    if title and lines:
        print(title)
    for line in lines:
        print(line)
    return len(data)


def _follow(folder: StateFolder, parts: Iterable[str], ends: dict[Path, int]) -> None:
    last: Path | None = None
    while True:
        for part in parts:
            for path in files_of(folder, part):
                text = _new_text(path, ends)
                if text:
                    if path != last:
                        print(_title(path, part, several=True))
                        last = path
                    sys.stdout.write(text)
                    sys.stdout.flush()
        time.sleep(_POLL_S)


def _new_text(path: Path, ends: dict[Path, int]) -> str:
    """Return what was added to a file since it was looked at; a file that became shorter is read from its beginning."""
    try:
        size = path.stat().st_size
        begin = ends.get(path, 0) if size >= ends.get(path, 0) else 0
        if size == begin:
            return ""
        with path.open("rb") as file:
            file.seek(begin)
            data = file.read(size - begin)
    except OSError:
        return ""
    ends[path] = begin + len(data)
    return data.decode("utf-8", "replace")
