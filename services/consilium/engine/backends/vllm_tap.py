"""What one call took from the engine, counted beside the stream and without touching what the caller sees.

The serving classes ask the engine for outputs; this one lets a tap see them on the way. Knows vLLM's outputs and its clock. Does not know routes or frames.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from vllm.outputs import PoolingRequestOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from consilium.engine.backends import vllm_limits
from consilium.engine.ports import Tail, Timings, Usage


class Tap:
    """Counts what the engine gives to one call, without touching what the caller sees.

    taken    set when the engine has taken all requests that the call has made so far
    refused  what it did not take one with
    """

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "dead",
        "first",
        "open",
        "prompt_tokens",
        "reason",
        "refused",
        "sources",
        "stats",
        "taken",
        "waiting",
    )

    def __init__(self) -> None:
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = self.open = 0
        self.reason: str | None = None
        self.stats: Any = None
        self.first: float | None = None
        self.dead = False
        self.sources: list[AsyncGenerator[Any, None]] = []
        self.taken = asyncio.Event()
        self.waiting = 0
        self.refused: Exception | None = None

    @property
    def finished(self) -> bool:
        """Whether the engine has given all it will; what follows is formatting."""
        return self.open == 0 and self.prompt_tokens > 0

    @property
    def is_asked(self) -> bool:
        """Whether the call has made a request of the engine that this tap can watch."""
        return bool(self.sources)

    def accept(self) -> None:
        """Note that the engine has taken one of the call's requests."""
        self.waiting -= 1
        if self.waiting == 0:
            self.taken.set()

    def see(self, output: RequestOutput) -> None:
        """Count one output; `finished` outputs carry the totals of their prompt."""
        if self.first is None:
            self.first = time.monotonic()
        for choice in output.outputs:
            self.completion_tokens += len(choice.token_ids)
            self.reason = choice.finish_reason or self.reason
        if output.finished:
            self.open -= 1
            self.prompt_tokens += len(output.prompt_token_ids or ())
            self.cached_tokens += output.num_cached_tokens or 0
            self.stats = output.metrics

    def tail(self, began: float, reason: str | None) -> Tail:
        """Return the counts and the engine's clock. `began` is on the monotonic clock."""
        return Tail(
            usage=Usage(self.prompt_tokens, self.completion_tokens, self.cached_tokens),
            finish_reason=reason or self.reason,
            timings=Timings(
                queue_ms=_span(self.stats, "queued_ts", "scheduled_ts"),
                prefill_ms=_span(self.stats, "scheduled_ts", "first_token_ts"),
                first_token_ms=None if self.first is None else _ms(self.first - began),
                total_ms=_ms(time.monotonic() - began),
            ),
        )


class Steps:
    """How many steps the engine has told of. It tells of each one, also of those that only read a piece of a long prompt."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def logger(self, config: Any, engine_index: int = 0) -> StatLoggerBase:
        """Return a logger as vLLM makes them, one for each engine."""
        made = _StepLogger(config, engine_index)
        made.steps = self
        return made


class _StepLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM is seen as Any
    steps: Steps

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        """Keep nothing: only that a step was made counts."""

    def record(self, scheduler_stats: Any, *_others: Any, **_more: Any) -> None:
        if scheduler_stats is not None:
            self.steps.count += 1

    def log_engine_initialized(self) -> None:
        """Say nothing."""


class TappedLLM(AsyncLLM):  # type: ignore[misc]  # vLLM is seen as Any
    """AsyncLLM that lets a tap watch the outputs of its call, and remembers when the last token came and how many steps were made."""

    taps: dict[str, Tap]
    steps: Steps
    last_token: float
    failed: Callable[[BaseException], None]

    def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        """Generate as AsyncLLM does."""
        request_id = str(kwargs["request_id"] if "request_id" in kwargs else args[2])
        return self._watched(super().generate(*args, **kwargs), self._tap(request_id))

    def encode(self, *args: Any, **kwargs: Any) -> AsyncGenerator[PoolingRequestOutput, None]:
        """Encode as AsyncLLM does."""
        request_id = str(kwargs["request_id"] if "request_id" in kwargs else args[2])
        return self._watched(super().encode(*args, **kwargs), self._tap(request_id))

    async def add_request(
        self, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Take a request as AsyncLLM does, and let its tap know. Raises VLLMValidationError for one that would end the engine."""
        tap = self._tap(request_id)
        try:
            vllm_limits.check(params, self.vllm_config)
            queue = await super().add_request(request_id, prompt, params, *args, **kwargs)
        except Exception as error:
            if tap is not None:
                tap.refused = tap.refused or error
            await self.abort(request_id)  # what cannot be sent to the core is counted as unfinished
            raise
        if tap is not None:
            tap.accept()
        return queue

    def _tap(self, request_id: str) -> Tap | None:
        # One call may make several requests; vLLM appends "-<n>" or "_<n>" to the id that we gave.
        taps = self.taps
        return (
            taps.get(request_id)
            or taps.get(request_id.rpartition("-")[0])
            or taps.get(request_id.rpartition("_")[0])
        )

    def _watched(
        self, source: AsyncGenerator[Any, None], tap: Tap | None
    ) -> AsyncGenerator[Any, None]:
        watched = self._watch(source, tap)
        if tap is not None:
            tap.open += 1
            tap.waiting += 1
            tap.sources.append(watched)
        return watched

    async def _watch(
        self, source: AsyncGenerator[Any, None], tap: Tap | None
    ) -> AsyncGenerator[Any, None]:
        try:
            async for output in source:
                self.last_token = time.monotonic()
                if tap is not None:
                    if isinstance(output, RequestOutput):
                        tap.see(output)
                    else:
                        tap.open -= 1
                        tap.prompt_tokens += len(output.prompt_token_ids)
                yield output
        except EngineDeadError as error:
            if tap is not None:
                tap.dead = True
            self.failed(error)
            raise
        finally:
            await source.aclose()


def _span(stats: Any, begin: str, end: str) -> float | None:
    a, b = getattr(stats, begin, 0.0), getattr(stats, end, 0.0)
    return _ms(b - a) if a > 0 and b > 0 else None


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
