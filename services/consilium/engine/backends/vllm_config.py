"""vLLM's configuration of an engine, made from its arguments: the same for an engine of one node, for a leader and for its followers.

Touches vLLM. Knows in which process a class of models may be looked at. Does not start anything.
"""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models import registry
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext


def create(args: AsyncEngineArgs, *, headless: bool = False) -> VllmConfig:
    """Return the configuration. `headless` is for a node that does not lead. Raises what vLLM raises: ValueError, OSError and others.

    To keep the calling process off the cards vLLM looks at a class of models in another one, which imports everything once more: the first start of each
    model takes ten seconds of a core longer. On a machine's cores there are no cards to keep off, so there the calling process looks.
    """
    if current_platform.is_cpu():
        registry._run_in_subprocess = lambda look: look()  # noqa: SLF001  # it has no setting for that
    return args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER, headless=headless)
