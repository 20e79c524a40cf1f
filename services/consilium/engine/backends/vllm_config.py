"""vLLM's configuration of an engine, made from its arguments: the same for an engine of one node, for a leader and for its followers.

Touches vLLM. Knows in which process a class of models may be looked at, and when an engine core may compute by itself. Does not start anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.model_executor.models import registry
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.ompmultiprocessing import OMPProcessManager
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from consilium.kernel.config import environment_value
from consilium.kernel.process import set_variable

NO_COMPILER = "TORCHDYNAMO_DISABLE"
CPU_WORKER = "consilium.engine.backends.vllm_cpu_worker.Worker"
SLOT_PROBE = "consilium.engine.backends.vllm_slots.SlotProbe"


def create(args: AsyncEngineArgs, *, headless: bool = False) -> VllmConfig:
    """Return the configuration. `headless` is for a node that does not lead. Raises what vLLM raises: ValueError, OSError and others.

    To keep the calling process off the cards vLLM looks at a class of models in another one, which imports everything once more: the first start of each
    model takes ten seconds of a core longer. On a machine's cores there are no cards to keep off, so there the calling process looks.

    An eager engine on cores still compiles one small function when the first caller asks for log probabilities: 2 to 24 s in which nobody gets a token, to save
    nothing that can be measured. The processes of such an engine are told to leave that be. Their workers are ours (vllm_cpu_worker.py).

    Workers of an engine with slots for adapters say what they hold (vllm_slots.py), on every node.
    """
    if args.enable_lora:
        args.worker_extension_cls = SLOT_PROBE
    if current_platform.is_cpu():
        args.worker_cls = CPU_WORKER
        if args.enforce_eager and environment_value(NO_COMPILER) is None:
            set_variable(NO_COMPILER, "1")
        registry._run_in_subprocess = lambda look: look()  # noqa: SLF001  # it has no setting for that
    return args.create_engine_config(
        usage_context=UsageContext.OPENAI_API_SERVER, headless=headless
    )


@contextmanager
def lone_core(config: VllmConfig) -> Iterator[None]:
    """Let an engine with one worker on cores compute in its core's own process; it is to be started meanwhile.

    vLLM starts a worker beside the core there, because OpenMP reads which cores it may use when it is loaded, so that only the environment of a new process
    can tell it. The core is a new process too, so it gets what vLLM would give its worker. Apart, both spin on a core of the machine each while they wait for
    the other. The variables stay until the core is ready.
    """
    alone = (
        current_platform.is_cpu()
        and config.parallel_config.world_size_across_dp == 1
        and config.kv_transfer_config is None
    )
    if not alone:
        yield
        return
    config.parallel_config.distributed_executor_backend = UniProcExecutor
    with OMPProcessManager(config).configure_omp_envs(rank=0, local_rank=0):
        yield
