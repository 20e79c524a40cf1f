"""HAProxy in a pod: `python -m consilium.supervisor.pod_haproxy --config FILE --run DIR -- WORDS`, which Ray calls in place of the program.

Writes our rules into the pod's own folder, as `up` does on one machine, and becomes HAProxy. Does not know Ray.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from consilium.gateway.config import GatewayView
from consilium.kernel.config import load_view
from consilium.kernel.origins import origins_of
from consilium.kernel.process import unset_variable
from consilium.supervisor.haproxy import VARIABLE, write_start_script


def main(argv: list[str] | None = None) -> int:
    """Become HAProxy. Raises ConsiliumError(config_invalid)."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.pod_haproxy")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of the pod's processes")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(argv)
    face = load_view(GatewayView, chosen.config).gateway
    unset_variable(VARIABLE)  # else it would find this program again
    script = write_start_script(chosen.run, origins_of(face.cors_origins, face.host))[VARIABLE]
    words = chosen.words[1:] if chosen.words[:1] == ["--"] else chosen.words
    os.execv("/bin/sh", ["sh", script, *words])  # noqa: S606  # it becomes HAProxy


if __name__ == "__main__":
    sys.exit(main())
