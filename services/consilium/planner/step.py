"""How many tokens one step of an engine on processors takes, so that nobody's token waits long behind another's prompt.

An engine reads a long prompt step by step, and writes a token for everybody else in each of them. On a card a step of thousands of tokens takes a fraction of
a second; on two cores 2,048 tokens took 7 s. By estimate and not by measurement at the start, so that a machine does the same every time; a core with AMX is
quicker than told here, and its steps shorter. Does not know adapters or who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consilium.planner.figures import constant
from consilium.planner.shapes import Shape
from consilium.planner.speed import flops_per_token

LEAST: Final = 64
"""Below it the fixed price of a step is felt."""
_GRAIN: Final = 16
_SHARE: Final = 4


@dataclass(frozen=True, slots=True)
class Step:
    """One step.

    tokens   of all callers together: the engine's max_num_batched_tokens
    beside   of one long prompt while others wait or write: long_prefill_token_threshold. Three such prompts leave room for a short one
    seconds  that a full step takes, by estimate
    """

    tokens: int
    beside: int
    seconds: float


def most() -> int:
    """Return the tokens of the longest step of an engine on processors whose owner says nothing."""
    return int(constant("cpu_step_most_tokens"))


def on_processors(shape: Shape, cores: float, sequences: int) -> Step:
    """Return the step of one engine.

    cores      that it computes with
    sequences  callers at once; each needs a token in a step, so a step never holds fewer
    """
    rate = reading_rate(shape, cores)
    wanted = int(rate * constant("cpu_step_s")) // _GRAIN * _GRAIN
    tokens = max(min(max(wanted, LEAST), most()), sequences)
    return Step(tokens, max(_GRAIN, tokens // _SHARE), round(tokens / rate, 2))


def reading_rate(shape: Shape, cores: float) -> float:
    """Return about how many tokens of a long prompt an engine on so many cores reads in a second, deep in it: looking back costs more than the matrices."""
    deep = constant("cpu_step_depth_tokens")
    matrix, attention = flops_per_token(shape, min(deep, shape.max_positions or deep))
    giga = max(cores, 1.0) * 1e9
    seconds = matrix / (giga * constant("cpu_engine_core_gflops"))
    seconds += attention / (giga * constant("cpu_engine_core_attention_gflops"))
    return 1.0 / seconds
