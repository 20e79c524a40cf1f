"""GET /v1/models: the names that can stand in `model`.

Knows the page. Does not know what stands behind a name.
"""

from __future__ import annotations

import difflib
import time
from typing import Final

from consilium.gateway import model_list
from consilium.gateway.http_visit import Visit
from consilium.kernel.errors import ConsiliumError

_STARTED: Final = time.time()


async def listing(visit: Visit) -> None:
    """GET /v1/models."""
    await visit.enter()
    await visit.answer({"object": "list", "data": _rows(visit)})


async def one(visit: Visit) -> None:
    """GET /v1/models/NAME."""
    await visit.enter()
    name, rows = visit.rest, {str(row["id"]): row for row in _rows(visit)}
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1, cutoff=0)
        raise ConsiliumError("model_unknown", name=name[:100], nearest=near[0] if near else "base")
    await visit.answer(rows[name])


def _rows(visit: Visit) -> list[model_list.Row]:
    return visit.face.models(created=int(_STARTED))
