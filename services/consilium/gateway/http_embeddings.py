"""POST /v1/embeddings.

Knows the quota and the deadline of one. Does not know which model makes vectors.
"""

from __future__ import annotations

import asyncio

from consilium.gateway import asgi
from consilium.gateway.http_visit import Visit
from consilium.kernel.errors import ConsiliumError


async def embed(visit: Visit) -> None:
    """Send one vector for each text."""
    face, deadline = visit.face, visit.deadline()
    body, entry = await visit.enter_with_body()
    used = 0
    try:
        async with asyncio.timeout(visit.left_s(deadline)):
            made = await asgi.unless_gone(visit.request, asyncio.ensure_future(face.embed(body)))
        used = int(made["usage"]["total_tokens"])
    except TimeoutError:
        raise ConsiliumError("deadline", name="The embedder", retry_after_s=1.0) from None
    finally:
        await entry.held.settle(used)
    await visit.answer(made)
