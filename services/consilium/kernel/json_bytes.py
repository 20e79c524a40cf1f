"""JSON as it goes over a wire: no spaces, characters as they are, UTF-8."""

from __future__ import annotations

import json


def dumps(value: object) -> bytes:
    """Return a JSON value as bytes. Raises TypeError for what JSON cannot say."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
