"""GET /v1/receipts/ID: what was decided for an earlier answer.

Knows who may see which field. Does not know what a receipt says.
"""

from __future__ import annotations

from consilium.gateway.http_visit import Visit
from consilium.gateway.keys import ADMIN


async def show(visit: Visit) -> None:
    """Send a receipt; only admins see whose key it was."""
    admitted = await visit.enter()
    found = await visit.face.receipt(visit.rest, admitted)
    if not admitted.principal.may(ADMIN):
        found = {name: value for name, value in found.items() if name != "key_id"}
    await visit.answer(found)
