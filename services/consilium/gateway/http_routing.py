"""POST /v1/routing: which adapter would answer a text that says `auto`, and what was looked at. The texts of adapters are told to keys that may look at adapters alone.

    {"text": "how do I recover after a race?"}

Knows the page. Does not know how it is decided.
"""

from __future__ import annotations

from typing import Final

from consilium.gateway import asgi, request_body
from consilium.gateway.http_visit import Visit
from consilium.kernel.errors import ConsiliumError

READ: Final = "lora_router.read"
LONGEST: Final = 8000
"""Characters of a text that are looked at; those of a turn are as many."""


async def explain(visit: Visit) -> None:
    """Answer with {"adapter", "by", "reason", "took_ms", "candidates": [{"name", "score", "threshold", "nearest"}]}; adapter null = the plain model.

    `nearest` is a text that the owner of an adapter has written: a key without the scope lora_router.read does not get it.
    """
    admitted = await visit.enter()
    reads = admitted.principal.may(READ)
    limits = visit.face.cast.limits
    raw = await request_body.read(visit.request, limits.max_body_bytes)
    text = asgi.parse_object(raw, limits.max_json_depth).get("text")
    if not isinstance(text, str) or not text.strip():
        reason = 'send {"text": "..."}, the question that somebody might ask'
        raise ConsiliumError("invalid_request", field="text", reason=reason)
    told = await visit.face.cast.adapters.explain(text[:LONGEST])
    await visit.answer(
        {
            "adapter": "+".join(told.chosen.names) or None,
            "by": told.chosen.by,
            "reason": told.chosen.why,
            "took_ms": told.took_ms,
            "candidates": [
                {
                    "name": each.name,
                    "score": round(each.score, 4),
                    "threshold": round(each.threshold, 4),
                    **({"nearest": each.text} if reads else {}),
                }
                for each in told.candidates
            ],
        }
    )
