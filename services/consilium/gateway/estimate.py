"""How many tokens a request takes, before anybody has counted them: at most, which a quota reserves, and probably.

Pure. Does not know keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


TEMPLATE_TOKENS: Final = 64
MESSAGE_TOKENS: Final = 8
TOOLS_TOKENS: Final = 256
MEDIA_TOKENS: Final = 16_384
"""What a chat template adds at most: to a prompt, around a message, before tools; and what an image is at most."""


def bound_tokens(body: Mapping[str, object], size: int, frame: str = "") -> int:
    """Return the tokens that a request takes at most, if it names the length of its answer; without one USUAL_ANSWER is counted.

    size   bytes of the body: no tokenizer here makes more tokens than bytes
    frame  text of the role, which stands in the prompt but not in the body

    What a caller does not send is not in it: passages that other rooms add, and earlier responses that this one continues.
    """
    media = list(_media(body))
    messages = body.get("messages")
    count = len(messages) if isinstance(messages, list) else prompts(body)
    added = TEMPLATE_TOKENS + MESSAGE_TOKENS * count + MEDIA_TOKENS * len(media)
    if body.get("tools"):
        added += TOOLS_TOKENS
    return max(0, size - sum(media)) + len(frame.encode()) + added + _answer(body)


def estimate_tokens(body: Mapping[str, object], size: int) -> int:
    """Return the tokens that a request probably takes: its bytes over four, and the answer it asks for, times n and the number of prompts."""
    return size // BYTES_PER_TOKEN + _answer(body)


def _answer(body: Mapping[str, object]) -> int:
    answer = next((count for name in _LENGTHS if (count := count_of(body.get(name)))), USUAL_ANSWER)
    answers = (count_of(body.get("n")) or 1) * prompts(body)
    return min(answer, LONGEST_ANSWER) * min(answers, MOST_ANSWERS)


def _media(body: Mapping[str, object]) -> Iterator[int]:
    """Yield the bytes of each image that is written into the body."""
    for name in ("messages", "input"):
        messages = body.get(name)
        for message in messages if isinstance(messages, list) else ():
            content = message.get("content") if isinstance(message, Mapping) else None
            for part in content if isinstance(content, list) else ():
                url = part.get("image_url") if isinstance(part, Mapping) else None
                text = url.get("url") if isinstance(url, Mapping) else url
                if isinstance(text, str):
                    yield len(text)


def prompts(body: Mapping[str, object]) -> int:
    """Return the number of prompts of a completion; a list of token ids is one."""
    prompt = body.get("prompt")
    is_list = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    return len(prompt) if is_list else 1  # type: ignore[arg-type]
