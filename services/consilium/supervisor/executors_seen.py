"""How the executors are, by the word of the gateway's /ready.

Knows that answer. Does not know engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from consilium.supervisor.probes import http_get
from consilium.supervisor.silence import SHOWN_S

CORE: Final = "core"
ANSWER_S: Final = 2.0
READY: Final = "ready"
STARTING: Final = "starting"
SILENT: Final = "silent"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class ExecutorsSeen:
    """What /ready said.

    executors  name -> ready, starting, down, silent
    why        why the core is not ready; empty if it is
    heard      whether the gateway answered, and the core owes no answer
    """

    executors: Mapping[str, str] = field(default_factory=dict)
    why: str = ""
    heard: bool = True


NO_ANSWER: Final = ExecutorsSeen({CORE: UNKNOWN}, "the gateway does not answer", heard=False)


def executors_seen(http: str, timeout_s: float = ANSWER_S) -> ExecutorsSeen:
    """Ask the gateway at an address. Never raises."""
    status, body = http_get(f"{http}/ready", timeout_s=timeout_s)
    if not status:
        return NO_ANSWER
    return read(body)


def read(body: bytes) -> ExecutorsSeen:
    """Return what the body of an answer of /ready says."""
    try:
        said: Any = json.loads(body)
        states = {str(name): str(state) for name, state in said["executors"].items()}
        silent = {
            str(name) for name, s in dict(said.get("silent_s", {})).items() if float(s) >= SHOWN_S
        }
        is_ready = said["ready"] is True
    except (ValueError, KeyError, TypeError, AttributeError):
        return ExecutorsSeen({CORE: UNKNOWN}, "the gateway cannot say how the core is")
    found = {name: SILENT if name in silent else state for name, state in states.items()}
    if CORE in silent:
        return ExecutorsSeen(found, "its engine does not answer", heard=False)
    state = found.get(CORE, UNKNOWN)
    if state != READY:
        return ExecutorsSeen(found, f"the core is {state}: its engine gives no token")
    return ExecutorsSeen(found, "" if is_ready else "the gateway is being stopped")
