"""The figures of all processes of one node, which lie in the files of PROMETHEUS_MULTIPROC_DIR, on one page.

    counter_123.db, histogram_123.db, gauge_livesum_123.db   what process 123 counts
    counter_ended-5c0e.db                                    what a process has counted that has ended
    counter_ended.db, histogram_ended.db                     the sum of what such processes have counted

Who sees that a process has ended puts its files into the sum, so that fifty restarts leave two files and not a hundred:

    1  a file gets a name that no process will ever open: a later one may have the same number
    2  the new sum is written beside the old one, with the names of the files that are in it behind its values, where prometheus_client does not look
    3  it takes the old one's name: from here on those files count no more
    4  they are removed

A kill in between leaves files that the sum names, or files that it does not: each counts once, and the next one who looks goes on from there. Readers and whoever adds up
keep out of each other's way by a lock. Knows the names of the files and which process wrote them (their form: metrics_sum.py). Does not know what they count.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from consilium.kernel import metrics_sum
from consilium.kernel.config import environment_value

LOCK: Final = "lock"
ADDED_UP: Final = ("counter", "histogram", "summary")
"""Kinds of files whose values of ended processes are kept as a sum."""
SETTLED_S: Final = 5.0
"""Age of a file from which on a living process that does not have it open is another one, which got the number of one that ended."""
_FILE: Final = re.compile(r"(counter|histogram|summary|gauge_live\w*)_(\d+)\.db")
_CLAIMED: Final = re.compile(r"(counter|histogram|summary)_ended-[0-9a-f]+\.db")
_DAMAGED: Final = (struct.error, RuntimeError, ValueError)


def page_of(folder: Path, *, sees_processes: bool = True) -> str:
    """Return the sum of all processes whose values lie in a folder, in the text format; empty before there are any.

    sees_processes  whether they have the same numbers here as where they run. In another container of a pod they have others, or none: then nobody is taken for ended

    Counters and histograms of ended processes stay in the sum, so it never falls. Their gauges are taken out.
    """
    if sees_processes:
        forget_ended(folder)
    if not any(folder.glob("*.db")):
        return ""
    with _locked(folder, fcntl.LOCK_SH):
        summed = _summed(folder)
        return metrics_sum.page(file for file in sorted(folder.glob("*.db")) if file not in summed)


def forget_ended_here() -> None:
    """Do what `forget_ended` does in the folder of this process, where it has one. For processes that follow others in a pod: the container that shows the page cannot know who has ended."""
    figures = environment_value("PROMETHEUS_MULTIPROC_DIR")
    if figures is not None:
        forget_ended(Path(figures))


def forget_ended(folder: Path) -> None:
    """Remove the files of processes that have ended, one that had the number of this process among them: their gauges are gone, what they have counted is kept in the sum."""
    if not any(_has_ended(file) for file in folder.glob("*.db")):
        return
    with _locked(folder, fcntl.LOCK_EX):
        for file in _summed(folder):
            file.unlink(missing_ok=True)
        ended = [file for file in sorted(folder.glob("*.db")) if _has_ended(file)]
        for file in ended:
            if file.name.startswith("gauge_"):
                file.unlink(missing_ok=True)
        for kind in ADDED_UP:
            with suppress(OSError):  # a full disk: they stay as they are, and count so too
                _add_up(folder, kind, [file for file in ended if file.name.startswith(f"{kind}_")])


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    """Put the values of files into the sum of ended processes, and remove them. A file that cannot be read is put aside."""
    if not files:
        return
    claimed = [_claim(file) for file in files]
    sums: defaultdict[bytes, float] = defaultdict(float)
    whole = _whole(folder, kind)
    for file in (whole, *claimed):
        for key, value in _values(file).items():
            sums[key] += value
    new = whole.with_suffix(".new")
    try:
        # Written as a whole: into a map on a full disk it would end this process.
        new.write_bytes(
            metrics_sum.packed(sums) + json.dumps([file.name for file in claimed]).encode()
        )
        new.replace(whole)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    for file in claimed:
        file.unlink(missing_ok=True)


def _claim(file: Path) -> Path:
    """Give a file of an ended process the name of nobody's, and return it."""
    if _CLAIMED.fullmatch(file.name):
        return file
    kind = file.name.partition("_")[0]
    return file.rename(file.with_name(f"{kind}_ended-{secrets.token_hex(8)}.db"))


def _whole(folder: Path, kind: str) -> Path:
    """Return the file of the sum."""
    return folder / f"{kind}_ended.db"


def _summed(folder: Path) -> set[Path]:
    """Return the files whose values the sums have; they may be there still."""
    found: set[Path] = set()
    for kind in ADDED_UP:
        with suppress(FileNotFoundError, *_DAMAGED):
            data = _whole(folder, kind).read_bytes()
            names = data[metrics_sum.used_bytes(data) :]
            found.update(folder / str(name) for name in (json.loads(names) if names else ()))
    return found


def _values(file: Path) -> dict[bytes, float]:
    """Return the values of a file by their keys; none of one that is not there, and none of one that is damaged, which is put aside."""
    try:
        return {key: value for key, value, _ in metrics_sum.values_of(file)}
    except FileNotFoundError:
        return {}
    except _DAMAGED:
        file.rename(file.with_suffix(".damaged"))
        return {}


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    """Hold the lock of a folder; none where it cannot be made, such as in one that may only be read."""
    try:
        file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(file, how)
        yield
    finally:
        os.close(file)


def _has_ended(file: Path) -> bool:
    """Say whether the process that wrote a file has ended."""
    if _CLAIMED.fullmatch(file.name):
        return True
    found = _FILE.fullmatch(file.name)
    if found is None:
        return False
    pid = int(found[2])
    if not _is_alive(pid):
        return True
    return not _holds(pid, file) and (found[1].startswith("gauge") or _is_settled(file))


def _is_settled(file: Path) -> bool:
    """Say whether a file is old enough that its writer would have it open by now."""
    try:
        return time.time() - file.stat().st_mtime > SETTLED_S
    except OSError:
        return False


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
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
