"""The files of a checkpoint folder: its JSON files, and how large its weights are. Every room reads config.json here.

Knows file names. Does not know what a config.json says (shapes.py), and does not open weight files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

MAX_CONFIG_BYTES: Final = 4 << 20
_WEIGHTS: Final = ("*.safetensors", "*.gguf", "*.bin")


class UnreadableError(Exception):
    """A JSON file that is none. Its text is the end of a sentence that begins with the file: 'is not JSON'."""


def read_json(path: Path, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file of at most `limit` bytes. Raises UnreadableError, and FileNotFoundError where there is no such file."""
    try:
        size = path.stat().st_size
        if size > limit:
            raise UnreadableError(f"has {size >> 20} MiB, and at most {limit >> 20} are read")
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as cause:
        raise UnreadableError(f"cannot be read ({cause.strerror})") from cause
    except (ValueError, RecursionError) as cause:
        raise UnreadableError("is not JSON") from cause
    if not isinstance(loaded, dict):
        raise UnreadableError("is not a JSON object")
    return loaded


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files that an engine would load: of the formats that lie there the first one, safetensors before GGUF before PyTorch's."""
    return next((found for kind in _WEIGHTS if (found := sorted(folder.glob(kind)))), [])


def weight_bytes(folder: Path) -> int:
    """Return the size of the weight files together, 0 where there are none."""
    return sum(file.stat().st_size for file in weight_files(folder))
