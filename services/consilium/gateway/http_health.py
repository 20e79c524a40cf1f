"""The probes: /health, /healthz and /ready. They need no key.

Knows when the gateway is ready. Does not know how executors are asked.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.client import CORE
from consilium.gateway.http_visit import HTTP_OK, Visit

NOT_READY: Final = 503


async def alive(visit: Visit) -> None:
    """Say that this process answers."""
    await visit.answer({"status": "ok"})


async def ready(visit: Visit) -> None:
    """Say whether the core generates, and how every executor is; a gateway that drains is not ready.

    Answers within a second or so, also when an executor does not: `silent_s` says for how long it has owed an answer.
    """
    seen = await visit.face.watch.look()
    is_ready = CORE in seen and seen[CORE].is_ready and not visit.draining
    if not is_ready:
        visit.headers.append((b"retry-after", b"2"))
    told: dict[str, object] = {
        "ready": is_ready,
        "executors": {name: one.state.value for name, one in seen.items()},
    }
    if silent := {name: round(one.silent_s, 1) for name, one in seen.items() if one.silent_s}:
        told["silent_s"] = silent
    await visit.answer(told, status=HTTP_OK if is_ready else NOT_READY)
