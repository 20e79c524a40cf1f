"""What this engine would die of, refused before it is asked.

Each row was seen to end the engine's core, and with it everybody's calls. Knows vLLM's parameters and configuration. Does not know routes.
"""

from __future__ import annotations

from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams


def check(params: Any, config: Any) -> None:
    """Raise VLLMValidationError for a request that ends the engine. `config` is vLLM's whole configuration."""
    if not isinstance(params, SamplingParams):
        return
    on_cpu_with_adapters = (
        config.lora_config is not None and config.device_config.device_type == "cpu"
    )
    if params.prompt_logprobs is not None and on_cpu_with_adapters:
        # vLLM 0.32, punica_cpu.add_lora_logits: the adapters' rows are those of the answers, and the logits those of the prompt.
        raise VLLMValidationError(
            "An engine with adapters on a CPU has no log probabilities of the prompt: leave out prompt_logprobs, or echo with logprobs.",
            parameter="prompt_logprobs",
        )
