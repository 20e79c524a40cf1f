"""The probes: /health, /healthz and /ready. They need no key.

Knows when the gateway is ready. Does not know how executors are asked.
"""

from __future__ import annotations

from typing import Final

from consilium.engine.client import CORE, State
from consilium.gateway.http_visit import HTTP_OK, Visit

NOT_READY: Final = 503


async def alive(visit: Visit) -> None:
    """Say that this process answers."""
    await visit.answer({"status": "ok"})


async def ready(visit: Visit) -> None:
    """Say whether the core generates, and how every executor is; a gateway that drains is not ready."""
    states = await visit.face.watch.states()
    is_ready = states.get(CORE) is State.READY and not visit.draining
    if not is_ready:
        visit.headers.append((b"retry-after", b"2"))
    told = {name: state.value for name, state in states.items()}
    await visit.answer(
        {"ready": is_ready, "executors": told}, status=HTTP_OK if is_ready else NOT_READY
    )
