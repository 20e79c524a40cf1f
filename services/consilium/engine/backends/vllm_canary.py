"""Tries adapters on a vLLM engine: the texts of canary.py, with the plain model and with the adapter.

On a CPU prompts have no logprobs with adapters, so each guess of a neutral text is a request of one token. Touches vLLM. Does not know what a trial means (canary.py).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest

from consilium.engine import canary
from consilium.engine.adapter_desk import AdapterDesk
from consilium.engine.adapter_ports import AdapterTarget
from consilium.engine.backends.vllm_adapters import request_of
from consilium.engine.backends.vllm_tap import TappedLLM
from consilium.engine.canary import Step, Trial, Verdict, Written
from consilium.engine.ports import PRIORITY

IDLE_S: Final = 30.0
"""Longest that a trial waits for a pause of the engine."""
LOOK_S: Final = 0.1
BRIEF: Final = 1
"""Tokens of each opening that a fingerprint needs."""


class VllmCanary:
    """Obeys the canary port. `unfinished` says how many requests the engine works on."""

    def __init__(self, engine: TappedLLM, desk: AdapterDesk, unfinished: Callable[[], int]) -> None:
        self._engine, self._desk, self._unfinished = engine, desk, unfinished
        self._ids = itertools.count()
        self._one = asyncio.Lock()

    async def try_out(self, target: AdapterTarget) -> Verdict:
        """Return what came of it. Raises what `AdapterDesk.hold` raises."""
        async with self._one:
            await self._pause()
            base = await self._trial(None, together=True)
            again = await self._trial(None, together=False)
            async with self._desk.hold(target.reference) as held:
                adapted = await self._trial(request_of(held.target), together=True)
            verdict = canary.judge(base, again, adapted)
            if not verdict.finite:
                await self._wash()
            return verdict

    async def fingerprint(self, target: AdapterTarget) -> str:
        """Return what the adapter shows now. Raises what `AdapterDesk.hold` raises."""
        async with self._desk.hold(target.reference) as held:
            lora = request_of(held.target)
            written = await asyncio.gather(
                *(self._write(self._ids_of(text), BRIEF, lora) for text in canary.OPENINGS)
            )
        return canary.fingerprint(Trial(tuple(written), ()))

    async def _wash(self) -> None:
        """Overwrite the whole KV cache with the plain model's: blocks that hold what is no number would spoil the answers of those who get them next."""
        await self._engine.reset_prefix_cache()
        config = self._engine.vllm_config
        longest = int(config.model_config.max_model_len) - 1
        whole = int(config.cache_config.num_gpu_blocks or 0) * int(config.cache_config.block_size)
        for first in range(0, whole + longest, longest):
            await self._write([1 + (first + place) % 97 for place in range(longest)], 1, None)
        await self._engine.reset_prefix_cache()

    async def _pause(self) -> None:
        ends = time.monotonic() + IDLE_S
        while self._unfinished() and time.monotonic() < ends:  # noqa: ASYNC110  # the engine tells nobody when it rests
            await asyncio.sleep(LOOK_S)

    async def _trial(self, lora: LoRARequest | None, *, together: bool) -> Trial:
        """Return what is written and guessed, in one batch or one after another."""
        openings = [
            self._write(self._ids_of(text), canary.WRITTEN, lora) for text in canary.OPENINGS
        ]
        guesses = [
            self._guess(ids[:place], ids[place], lora)
            for ids in map(self._ids_of, canary.NEUTRAL)
            for place in _places(len(ids))
        ]
        if together:
            written = await asyncio.gather(*openings)
            guessed = await asyncio.gather(*guesses)
        else:
            written = [await opening for opening in openings]
            guessed = [await guess for guess in guesses]
        return Trial(tuple(written), tuple(guessed))

    async def _guess(self, ids: list[int], following: int, lora: LoRARequest | None) -> float:
        written = await self._write(ids, 1, lora)
        if not written:
            return float("nan")
        tops = written[0].tops
        return tops.get(following, min(tops.values(), default=0.0) - 1.0)

    async def _write(self, ids: list[int], tokens: int, lora: LoRARequest | None) -> Written:
        config = self._engine.vllm_config
        most = config.model_config.max_logprobs
        params = SamplingParams(
            max_tokens=tokens,
            temperature=0.0,
            logprobs=canary.TOPS if most < 0 else min(canary.TOPS, most),
            ignore_eos=True,
            detokenize=False,
        )
        room = max(1, int(config.model_config.max_model_len) - tokens)
        prompt = TokensPrompt(prompt_token_ids=ids[:room], cache_salt=secrets.token_hex(8))
        behind = config.scheduler_config.policy == "priority"
        last: Any = None
        async for output in self._engine.generate(
            prompt,
            params,
            f"canary-{next(self._ids)}",
            lora_request=lora,
            priority=PRIORITY["night"] if behind else 0,
        ):
            last = output.outputs[0]
        return () if last is None else _steps(last)

    def _ids_of(self, text: str) -> list[int]:
        ids: list[int] = self._engine.renderer.tokenizer.encode(text, add_special_tokens=False)
        return ids


def _places(length: int) -> list[int]:
    """Return places spread evenly over a text of so many tokens."""
    count = min(canary.PLACES, length - 1)
    return [1 + index * (length - 1) // count for index in range(count)]


def _steps(output: Any) -> Written:
    logprobs = output.logprobs or [{}] * len(output.token_ids)
    return tuple(
        Step(
            int(token),
            float(found[token].logprob) if token in found else float("nan"),
            {int(name): float(one.logprob) for name, one in found.items()},
        )
        for token, found in zip(output.token_ids, logprobs, strict=True)
    )
