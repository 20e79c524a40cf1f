"""What vLLM refuses a request with, as an OpenAI error object: a code of our catalogue, the field at fault where it can be known, vLLM's own sentence.

Two sentences are ours: a prompt that is too long gets both numbers, and a fault of the engine tells the request's id only. Knows vLLM's error objects.
Does not know how they came about.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from math import ceil
from typing import Any, Final

from consilium.kernel.errors import ConsiliumError, to_openai
from consilium.kernel.openai_errors import told

_TOKENS = re.compile(
    r"This model's maximum context length is (\d+) tokens\. However, your prompt contains (at least )?(\d+) input tokens"
)
_CHARACTERS = re.compile(
    r"This model's maximum context length is (\d+) tokens\. However, your prompt contains (\d+) characters "
    r"\(more than (\d+) characters, which is the upper bound for (\d+) input tokens"
)
_LENGTH = re.compile(r"Input length \((\d+)\) exceeds model's maximum context length \((\d+)\)")
_FIRST_WORD: Final = re.compile(r"[`'\"]?(\w+(?:\.\w+)*)")
_BODY: Final = "body."
"""What FastAPI puts before the names of fields; OpenAI does not."""
_OURS: Final = 500
"""From this HTTP status on it is our fault, and what was said is for the log."""
_NOT_SUPPORTED: Final = 501
_BUSY: Final = 503


def refusal(
    message: str, status: int, param: str | None, *, fields: Collection[str], request_id: str
) -> ConsiliumError:
    """Return the error for what vLLM said.

    status  HTTP status that vLLM would answer with
    fields  names of the request, one of which may be the first word of a sentence that names no field otherwise
    """
    if (too_long := _too_long(message)) is not None:
        return too_long
    if status >= _OURS and status not in {_NOT_SUPPORTED, _BUSY}:
        return ConsiliumError("internal", message, request_id=request_id)
    param = (param or _named(message, fields) or "").removeprefix(_BODY)
    return told({"error": {"message": message, "code": status, "param": param or None}}, status)


def body_of(error: ConsiliumError) -> bytes:
    """Return the JSON of an error, written as starlette's JSONResponse writes it."""
    return dumps(to_openai(error))


def dumps(content: object) -> bytes:
    """Return JSON as starlette's JSONResponse writes it, what UTF-8 cannot say as a question mark."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")  # half a pair of surrogates that a caller sent


def said_in(event: str) -> dict[str, Any] | None:
    """Return the error object of an SSE event that is one, else None."""
    if not event.startswith('data: {"error"'):
        return None
    found = json.loads(event[6:])["error"]
    return found if isinstance(found, dict) else None


def _named(message: str, fields: Collection[str]) -> str | None:
    """Return the field that a sentence begins with: "n must be 1 when using greedy sampling"."""
    found = _FIRST_WORD.match(message)
    return found[1] if found and found[1].partition(".")[0] in fields else None


def _too_long(message: str) -> ConsiliumError | None:
    if found := _TOKENS.match(message):
        limit, tokens = (
            int(found[1]),
            f"{found[2] or ''}{found[3]}",
        )  # it stops counting one token above the limit
    elif found := _CHARACTERS.match(message):
        # vLLM refuses by length of text before it counts; so many characters are at least this many tokens.
        limit, tokens = (
            int(found[1]),
            f"at least {ceil(int(found[2]) * int(found[4]) / int(found[3]))}",
        )
    elif found := _LENGTH.match(message):
        limit, tokens = int(found[2]), found[1]
    else:
        return None
    return ConsiliumError("prompt_too_long", tokens=tokens, limit=limit, param="input_tokens")
