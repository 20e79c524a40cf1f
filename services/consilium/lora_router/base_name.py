"""What a base model is called, so that two spellings of one model compare as equal, and a folder's name says nothing.

Pure. Does not know which models there are.
"""

from __future__ import annotations

import re
from typing import Final

_FORMAT: Final = re.compile(
    r"[-_.](unsloth|bnb|[48]bit|awq|gptq|int[48]|fp8|fp4|nvfp4|mxfp4|w\d+a\d+|bf16|fp16|gguf|dynamic|hf|marlin|g\d+|autoround|quantized)$"
)
_SIZE: Final = re.compile(r"(^|[-_.x])\d+(\.\d+)?[bm]([-_.]|$)")
_HUB_FOLDER: Final = re.compile(r"models--[^/]+--([^/]+)")


def plain(name: str) -> str:
    """Return a model's name without owner, folder, format and case: `unsloth/Qwen3-8B-bnb-4bit` is `qwen3-8b`. "" where it names no size, as a folder's name does."""
    found = _last(name)
    while match := _FORMAT.search(found):
        found = found[: match.start()]
    return found if _SIZE.search(found) else ""


def _last(name: str) -> str:
    hub = _HUB_FOLDER.search(name)
    return (hub[1] if hub else name.rstrip("/").rpartition("/")[2]).lower()
