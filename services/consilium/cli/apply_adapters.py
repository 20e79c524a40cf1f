"""What the room of adapters made of a configuration that was applied: which adapters are not as it says, and why.

Knows the page of adapters. Does not know configurations: it is told the digest of a section.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from consilium.cli import adapter_tables
from consilium.cli.answers import document
from consilium.cli.endpoint import Endpoint
from consilium.kernel.errors import ConsiliumError

LIMIT_S: Final = 60.0
"""A removal waits half a minute for callers to leave. Files of the hub may take longer: then that is said."""
POLL_S: Final = 0.25


def left_out(
    endpoint: Endpoint,
    version: str,
    *,
    limit_s: float = LIMIT_S,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, ...]:
    """Return a line for each adapter that is not as the configuration says, once the room has worked through it; one line where it is not done in time, or does not answer.

    version  digest of the section `adapters`
    """
    until = clock() + limit_s
    why = "it is still at work"
    while True:
        try:
            page: Any = document(endpoint, "adapters")
            if page["configuration"] == version:
                return tuple(filter(None, map(adapter_tables.left_out, page["adapters"])))
        except ConsiliumError as error:
            why = error.public().rstrip(".")
            if not error.row.retry:  # no room of adapters, or a key that may not look
                until = 0.0
        except KeyError:
            return ()  # an older room does not say
        if clock() >= until:
            return (f"The room of adapters has not said that it is done ({why}): 'consilium adapters ls' shows what it makes of this.",)  # fmt: skip
        time.sleep(POLL_S)
