"""The question of tests and benchmarks that look at when an answer comes, and not at what it says."""

from __future__ import annotations


def chat(tokens: int, **more: object) -> dict[str, object]:
    """Return a request for an answer of exactly so many tokens, the same each time."""
    return {
        "model": "base",
        "messages": [{"role": "user", "content": "Go on."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        **more,
    }
