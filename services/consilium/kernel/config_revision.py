"""Whether a pod shows the configuration that its owner means already.

Kubernetes tells Serve of a change at once, and shows a pod the new files of its ConfigMap up to two minutes later. What starts in between would read the old ones, and
keep them. So the ConfigMap has a file for each who starts again by it, with the revision that Serve is told too. Knows files. Does not know what is in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from consilium.kernel import logs

LIMIT_S: Final = 180.0
"""Longer than a kubelet takes: a minute until it looks, and a minute for what it holds in memory."""
POLL_S: Final = 0.5

_log = logs.get("config")


def file_of(config: Path, who: str) -> Path:
    """Return the file that tells the revision beside a configuration."""
    return config.parent / f".{who}-revision"


def wait_for(
    config: str,
    who: str,
    revision: str,
    *,
    limit_s: float = LIMIT_S,
    pause: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> bool:
    """Wait until the files beside a configuration are of this revision, and return whether they are; an empty one waits for nothing.

    After the limit the caller goes on with what is there: a chart from before, taken back, has no such file.
    """
    until = now() + limit_s
    while revision and _told(file_of(Path(config), who)) != revision:
        if now() >= until:
            _log.warning("config_revision_unseen", who=who, revision=revision)
            return False
        pause(POLL_S)
    return True


def _told(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
