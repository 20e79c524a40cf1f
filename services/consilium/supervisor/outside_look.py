"""What a cluster looks like from outside: who looks after it, and what it answers, where its own record cannot be believed.

Asks side by side and within a limit, so that whoever asks has an answer whatever hangs. Knows cluster.json, processes and probes. Does not know who asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from threading import Thread
from typing import Final, TypeVar

from consilium.supervisor import probes, processes
from consilium.supervisor.executors_seen import (
    CORE,
    NO_ANSWER,
    UNKNOWN,
    ExecutorsSeen,
    executors_seen,
)
from consilium.supervisor.state_folder import Cluster, PartRecord, StateFolder

LOOK_S: Final = 0.6
"""Seconds that all questions together have."""
STALE_S: Final = 5.0
"""A supervisor that has not looked for so long stands still: it looks twice a second, but for the moments in which it ends what is left of a part."""

T = TypeVar("T")


class Care(StrEnum):
    """Who looks after a cluster."""

    LOOKED_AFTER = "looked after"
    STANDS_STILL = "stands still"
    NOBODY = "nobody"
    NOTHING_RUNS = "nothing runs"


@dataclass(frozen=True, slots=True)
class Outside:
    """One look.

    care     who looks after the cluster
    looked   Unix seconds of the supervisor's last look; 0.0 where that is not known
    cluster  its record, with what was seen now in place of what it says, where nobody keeps it
    """

    care: Care
    looked: float
    cluster: Cluster


def care_of(folder: StateFolder, cluster: Cluster, now: float) -> tuple[Care, float]:
    """Return who looks after the cluster, and when the supervisor looked last (Unix seconds, 0.0 where unknown).

    now  Unix seconds
    """
    looked = _looked(folder)
    if cluster.boot != processes.boot_id():
        return Care.NOTHING_RUNS, looked
    if processes.is_alive(cluster.supervisor):
        stale = processes.is_stopped(cluster.supervisor) or (
            looked >= cluster.started and now - looked > STALE_S
        )
        return (Care.STANDS_STILL if stale else Care.LOOKED_AFTER), looked
    if any(processes.is_alive(pid) for part in cluster.parts.values() for pid in part.pids):
        return Care.NOBODY, looked
    return Care.NOTHING_RUNS, looked


def look(folder: StateFolder, cluster: Cluster) -> Outside:
    """Return what is to be known now, within LOOK_S seconds. Where nobody keeps the record, what can be asked is asked here."""
    care, looked = care_of(folder, cluster, time.time())
    if care in {Care.LOOKED_AFTER, Care.NOTHING_RUNS}:
        return Outside(care, looked, cluster)
    faults, executors = _asked(cluster)
    if care is Care.NOBODY and "metrics" in cluster.parts:
        faults["metrics"] = "the supervisor served this page"
    now = time.time()
    parts = {name: _as_seen(part, faults.get(name), now) for name, part in cluster.parts.items()}
    return Outside(care, looked, replace(cluster, parts=parts, executors=executors))


def _asked(cluster: Cluster) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is wrong with each part that could be asked ('' where it answers), and how the executors are."""
    asked: dict[str, Callable[[], ExecutorsSeen | tuple[bool, str, bool]]] = {
        "gateway": lambda: executors_seen(cluster.addresses["http"], LOOK_S),
        "redis": lambda: probes.redis_ready(cluster.addresses["redis"], LOOK_S),
    }
    for name in cluster.parts:
        if port := cluster.ports.get(f"{name}_metrics"):  # a room
            url = f"http://127.0.0.1:{port}/healthz"
            asked[name] = partial(probes.http_ready, url, LOOK_S)
    found = side_by_side(asked, LOOK_S)
    seen = found.pop("gateway", None)
    if not isinstance(seen, ExecutorsSeen):
        seen = NO_ANSWER
    faults = {name: _fault(found.get(name)) for name in asked}
    faults["gateway"] = seen.why if seen.executors.get(CORE) == UNKNOWN else ""
    faults[CORE] = seen.why
    return faults, dict(seen.executors)


def _fault(answer: object) -> str:
    if not isinstance(answer, tuple):
        return "does not answer"
    return "" if answer[0] else str(answer[1] or "does not answer")


def _as_seen(part: PartRecord, fault: str | None, now: float) -> PartRecord:
    """Return the record of a part as it was seen just now. fault  what is wrong, '' where it answers, None where it was not asked"""
    if fault is None:
        is_gone = part.pids and not any(processes.is_alive(pid) for pid in part.pids)
        fault = "its process is gone" if is_gone else None
    if fault is None:
        return part
    if not fault:
        return replace(part, state="up", down=0.0, why="", detail="")
    state = "silent" if part.state == "up" else part.state
    return replace(part, state=state, down=part.down or now, why=fault)


def side_by_side(asked: Mapping[str, Callable[[], T]], limit_s: float) -> dict[str, T]:
    """Return the answers that come within the limit; one that fails or hangs is left out, and holds nobody up."""
    answers: dict[str, Future[T]] = {name: Future() for name in asked}

    def ask(name: str, question: Callable[[], T]) -> None:
        try:
            answers[name].set_result(question())
        except Exception as err:
            answers[name].set_exception(err)

    for name, question in asked.items():
        Thread(target=ask, args=(name, question), daemon=True, name=f"ask {name}").start()
    until = time.monotonic() + limit_s
    found = {}
    for name, answer in answers.items():
        try:
            found[name] = answer.result(max(0.0, until - time.monotonic()))
        except Exception:  # noqa: S112  left out, as said above
            continue
    return found


def _looked(folder: StateFolder) -> float:
    try:
        return folder.looked.stat().st_mtime
    except OSError:
        return 0.0
