"""How an engine of ours is constructed: its arguments as vLLM's own classes, its core, and what counts its steps.

Touches vLLM. Does not know calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm.config import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.usage.usage_lib import UsageContext

from consilium.engine.backends import vllm_config
from consilium.engine.backends.vllm_tap import Steps, TappedLLM


def typed(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with the one nested section as vLLM's own class; the others it converts itself."""
    nested = args.get("structured_outputs_config")
    return (
        {**args, "structured_outputs_config": StructuredOutputsConfig(**nested)}
        if isinstance(nested, Mapping)
        else dict(args)
    )


def construct(args: AsyncEngineArgs, figures: Any) -> TappedLLM:
    """Return a running engine. Blocks until its core is ready; raises what vLLM raises."""
    steps = Steps()
    config = vllm_config.create(args)
    with vllm_config.lone_core(config):
        engine: TappedLLM = TappedLLM.from_vllm_config(
            config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=[steps.logger, figures],
            enable_log_requests=args.enable_log_requests,
            aggregate_engine_logging=args.aggregate_engine_logging,
            disable_log_stats=args.disable_log_stats,
        )
    engine.steps = steps
    return engine
