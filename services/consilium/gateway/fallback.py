"""The executors of one turn, asked in the order of its decision until one accepts, and again while the one that accepted has said nothing.

Knows the order, and after which errors the next is asked. Does not know how an executor is asked (attempt.py).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from consilium.engine.client import Turn
from consilium.gateway import closing
from consilium.gateway.attempt import attempt
from consilium.gateway.cast import Ask, Cast, Course
from consilium.gateway.decision import Decision
from consilium.gateway.receipt import Tried
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError

PASSES_ON: Final = frozenset({"upstream_down", "engine_starting", "engine_failed"})
"""Errors of an executor after which its fallback is asked."""

NO_ADAPTER: Final = frozenset(
    {"adapter_refused", "adapter_unknown", "adapter_down", "no_free_lora_slot"}
)
"""Errors of an executor that has no fault but that it cannot answer with the adapter."""

_log = logs.get("gateway")


class Executors:
    """Those that a turn may still ask; each is asked once."""

    def __init__(self, cast: Cast, ask: Ask, decision: Decision, course: Course) -> None:
        self.cast, self.ask, self.decision, self.course = cast, ask, decision, course
        self._left = list(decision.executors)
        self._asked = 0.0

    async def next(self) -> Turn:
        """Return the answer of the next one that accepts. Raises ConsiliumError as the last of them does."""
        while True:
            if not self._left:
                raise ConsiliumError("internal", "a decision without an executor")
            executor = self._left.pop(0)
            self._asked = self.cast.clock.monotonic()
            try:
                return await attempt(self.cast, self.ask, self.decision, self.course, executor)
            except ConsiliumError as error:
                if not self.follow(executor, error):
                    raise

    def _plainly(self, executor: str, error: ConsiliumError) -> bool:
        """Return whether the executor is asked once more, without an adapter that it cannot answer with and that nobody has insisted on."""
        decision = self.decision
        if error.code not in NO_ADAPTER or not decision.adapter_is_free:
            return False
        if not decision.adapter or executor in decision.plain_on:
            return False
        why = error.public()
        self.course.notes.append(f"{', '.join(decision.adapters)} could not answer: {why}")
        plain_on = {**decision.plain_on, executor: why}
        self.decision = self.course.decision = replace(decision, plain_on=plain_on)
        self._left.insert(0, executor)
        return True

    def follow(self, executor: str, error: ConsiliumError) -> bool:
        """Note that an executor has failed before its first byte. Returns whether `next` is to be asked."""
        if self._plainly(executor, error):
            return True
        took_ms = closing.ms(self.cast.clock.monotonic() - self._asked)
        self.course.tried.append(Tried(executor, error.code, took_ms))
        if not self._left or error.code not in PASSES_ON:
            return False
        spare = self._left[0]
        _log.warning("fallback", executor=executor, to=spare, code=error.code)
        self.cast.meter.fallback(executor, spare)
        return True
