"""How many tokens a request may take, before anybody has counted them: what a quota reserves.

Pure. Does not know keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.gateway.lengths import FIELDS, count_of

BYTES_PER_TOKEN: Final = 4
USUAL_ANSWER: Final = 256
"""Tokens that are reserved for an answer whose length nobody named; settled when it is known."""
LONGEST_ANSWER: Final = 2**20
"""Tokens up to which a wished length is reserved: no context is longer, and a bucket must stay a number that Redis can count."""
MOST_ANSWERS: Final = 1024
"""Answers that one request may ask for: its prompts times n. Each is a request of its own in the engine."""
_LENGTHS: Final = tuple(dict.fromkeys(name for names in FIELDS.values() for name in names))


def estimate_tokens(body: Mapping[str, object], size: int) -> int:
    """Return tokens to reserve for a request: its bytes over four, and the answer it asks for, times n and the number of prompts."""
    answer = next((count for name in _LENGTHS if (count := count_of(body.get(name)))), USUAL_ANSWER)
    answers = (count_of(body.get("n")) or 1) * prompts(body)
    return size // BYTES_PER_TOKEN + min(answer, LONGEST_ANSWER) * min(answers, MOST_ANSWERS)


def prompts(body: Mapping[str, object]) -> int:
    """Return the number of prompts of a completion; a list of token ids is one."""
    prompt = body.get("prompt")
    is_list = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if is_list else 1  # type: ignore[arg-type]
