"""Who gets in, before any engine is touched: the shape of a body, an estimate of its tokens, and the number of turns in work.

Checks only the few fields that the gateway itself touches; the rest is validated by the engine's own models, so that callers read the same words as
from a bare engine. Knows bodies and counts. Does not know keys, HTTP or engines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from consilium.engine.ports import Json, Route
from consilium.gateway.caps import check_caps
from consilium.gateway.config import Gateway
from consilium.kernel.errors import ConsiliumError

BYTES_PER_TOKEN: Final = 4
USUAL_ANSWER: Final = 256
"""Tokens that are reserved for an answer whose length nobody named; settled when it is known."""
LONGEST_ANSWER: Final = 2**20
"""Tokens up to which a wished length is reserved: no context is longer, and a bucket must stay a number that Redis can count."""
MOST_ANSWERS: Final = 1024
"""Answers that one request may ask for: its prompts times n. Each is a request of its own in the engine."""
LONGEST_NAME: Final = 512
"""Characters of a model's name, in which looking for the nearest known one stays cheap."""
SMOOTH: Final = 0.1
"""Weight of the newest service time in the running mean."""
WISHES: Final = frozenset({"role", "profile", "executor", "receipt"})
LATER: Final = frozenset({"adapters", "collections", "dual"})
"""Words of the field `consilium` that come with their own rooms."""


def estimate_tokens(body: Mapping[str, object], size: int) -> int:
    """Return tokens to reserve for a request: its bytes over four, and the answer it asks for, times n and the number of prompts."""
    answer = (
        count_of(
            body.get("max_completion_tokens")
            or body.get("max_tokens")
            or body.get("max_output_tokens")
        )
        or USUAL_ANSWER
    )
    answers = (count_of(body.get("n")) or 1) * _prompts(body)
    return size // BYTES_PER_TOKEN + min(answer, LONGEST_ANSWER) * min(answers, MOST_ANSWERS)


def check_shape(body: Json, limits: Gateway, route: Route) -> None:
    """Raise ConsiliumError(invalid_request) if a field that the gateway itself reads is of the wrong kind, or asks for too much."""
    model = body.get("model")
    if model is not None and not isinstance(model, str):
        raise _bad(
            "model",
            f"it must be a string (it is a {type(model).__name__}). GET /v1/models lists the names",
        )
    if isinstance(model, str) and len(model) > LONGEST_NAME:
        raise _bad(
            "model", f"it has {len(model)} characters, and no name has more than {LONGEST_NAME}"
        )
    copies, prompts = count_of(body.get("n")) or 1, _prompts(body)
    if route != "responses" and copies > limits.max_n:
        raise _bad("n", f"{copies} answers at once were asked for, and the limit is {limits.max_n}")
    if route == "completions" and copies * prompts > MOST_ANSWERS:
        raise _bad(
            "prompt",
            f"{prompts} prompts with n {copies} ask for {copies * prompts} answers at once, and the limit is {MOST_ANSWERS}",
        )
    check_caps(body)
    wish = body.get("consilium")
    if wish is None:
        return
    if not isinstance(wish, dict):
        raise _bad(
            "consilium",
            f"it must be an object (it is a {type(wish).__name__}) with the keys {', '.join(sorted(WISHES))}",
        )
    for key, value in wish.items():
        _check_wish(str(key), value)


def _check_wish(key: str, value: object) -> None:
    if key in LATER:
        raise ConsiliumError(
            "not_supported",
            reason=f"consilium.{key} is not supported by this version",
            param=f"consilium.{key}",
        )
    if key not in WISHES:
        raise _bad(
            f"consilium.{key}", f"there is no such key. Known keys are {', '.join(sorted(WISHES))}"
        )
    if key == "receipt":
        if not isinstance(value, bool):
            raise _bad("consilium.receipt", "it must be true or false")
    elif isinstance(value, str) and len(value) > LONGEST_NAME:
        raise _bad(
            f"consilium.{key}",
            f"it has {len(value)} characters, and no name has more than {LONGEST_NAME}",
        )
    elif value is not None and not isinstance(value, str):
        raise _bad(f"consilium.{key}", f"it must be a string (it is a {type(value).__name__})")


def count_of(value: object) -> int:
    """Return a number above 0 as the engine's models read it, to which 3, 3.0 and "3" are the same; 0 for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0
    return int(min(value, 2**53))


def _prompts(body: Mapping[str, object]) -> int:
    """Return the number of prompts of a completion; a list of token ids is one."""
    prompt = body.get("prompt")
    return (
        len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    )


def _bad(field: str, reason: str) -> ConsiliumError:
    return ConsiliumError("invalid_request", field=field, reason=reason)


@dataclass(slots=True)
class _Lane:
    limit: int
    running: int = 0
    mean_s: float = 0.0


class Gate:
    """Counts the turns in work of each executor in this process, and refuses above a limit.

    A refused caller is told when a place should be free: the running mean of a turn's seconds, divided by the places.
    """

    def __init__(self, limit: int) -> None:
        self._default = limit
        self._lanes: dict[str, _Lane] = {}

    def set_limit(self, executor: str, limit: int) -> None:
        """Say how many turns an executor takes from this process."""
        self._lane(executor).limit = max(1, limit)

    def enter(self, executor: str) -> None:
        """Take a place. Raises ConsiliumError(queue_full) with seconds after which a retry makes sense."""
        lane = self._lane(executor)
        if lane.running >= lane.limit:
            wait_s = min(60.0, max(1.0, math.ceil(lane.mean_s / lane.limit * 2)))
            raise ConsiliumError(
                "queue_full",
                name=f"executor/{executor}",
                running=lane.running,
                limit=lane.limit,
                retry_after_s=wait_s,
            )
        lane.running += 1

    def leave(self, executor: str, seconds: float) -> None:
        """Give a place back after so many seconds."""
        lane = self._lane(executor)
        lane.running = max(0, lane.running - 1)
        lane.mean_s = (
            seconds if lane.mean_s == 0 else lane.mean_s + SMOOTH * (seconds - lane.mean_s)
        )

    @contextmanager
    def beside(self, name: str) -> Iterator[None]:
        """Count something in work that no engine's place is for, under a name of its own."""
        lane = self._lane(name)
        lane.running += 1
        try:
            yield
        finally:
            lane.running -= 1

    def running(self, executor: str) -> int:
        """Return the turns in work."""
        return self._lane(executor).running

    def _lane(self, executor: str) -> _Lane:
        return self._lanes.setdefault(executor, _Lane(self._default))
