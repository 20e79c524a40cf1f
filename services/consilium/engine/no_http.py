"""What the own HTTP port of an executor's application says: there is nothing here.

Serve gives every application a port, and calls its first deployment for whatever comes. Executors are called through handles alone; a deployment that cannot be called
at all is a 500 with Serve's words. Knows one answer. Does not know engines.
"""

from __future__ import annotations

from typing import Any

from consilium.kernel.errors import ConsiliumError, http_status, to_openai
from consilium.kernel.json_bytes import dumps


class NoHttp:
    """A deployment that answers every HTTP request with 404."""

    async def __call__(self, _request: Any) -> Any:
        """Return the answer."""
        from starlette.responses import Response

        error = ConsiliumError("route_unknown")
        return Response(dumps(to_openai(error)), http_status(error), media_type="application/json")
