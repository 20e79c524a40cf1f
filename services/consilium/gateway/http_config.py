"""GET and PUT /v1/config: what this gateway holds of the configuration, and new live sections for it.

Knows the page. Does not know files or replicas.
"""

from __future__ import annotations

from consilium.gateway import asgi, request_body
from consilium.gateway.http_visit import Visit
from consilium.kernel.errors import ConsiliumError


async def show(visit: Visit) -> None:
    """GET: the live sections, masked, their version, and what each replica holds."""
    await visit.enter()
    await visit.answer(await visit.face.config.told())


async def exchange(visit: Visit) -> None:
    """PUT {"sections": {...}, "base": VERSION}: exchange live sections, each whole. Answers as GET does."""
    admitted = await visit.enter()
    limits = visit.face.cast.limits
    raw = await request_body.read(visit.request, limits.max_body_bytes)
    body = asgi.parse_object(raw, limits.max_json_depth)
    sections, base = body.get("sections"), body.get("base")
    if not isinstance(sections, dict) or not sections:
        reason = 'send {"sections": {"roles": {...}}}, with each section that shall change whole'
        raise ConsiliumError("invalid_request", field="sections", reason=reason)
    if base is not None and not isinstance(base, str):
        raise ConsiliumError(
            "invalid_request", field="base", reason="it must be the version that GET told"
        )
    await visit.face.config.put(sections, base, admitted.key_id)
    await visit.answer(await visit.face.config.told())


async def show_or_exchange(visit: Visit) -> None:
    """GET or PUT."""
    await (exchange if visit.request.method == "PUT" else show)(visit)
