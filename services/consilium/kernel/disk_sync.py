"""What was written is on the disk, and not only on its way there.

Knows paths. Does not know what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path


def to_disk(path: Path) -> None:
    """Return when a file is on the disk, or when a folder's names are. Blocks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
