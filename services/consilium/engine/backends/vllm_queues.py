"""How vLLM's processes wait for each other: a plugin of vLLM, loaded by it into each of its processes (entry point `vllm.general_plugins` in
pyproject.toml). Does nothing unless CSL_QUEUE_NAP_S is set.

An engine core and its workers hand steps to each other through queues in shared memory, and between two looks at a queue a reader calls sched_yield. A step
comes every few milliseconds and a reader gives up after a second, so during an answer each of them keeps a whole core busy with waiting. Where cores compute
the model that costs speed, and Linux with the EEVDF scheduler (seen on 6.18) can let other processes starve for seconds behind such a loop. Here a
reader sleeps instead. The other way, to park on the queue's notification socket at once, was tried and loses wake-ups for up to five seconds: ZeroMQ drops a
notification that follows another within 3 million ticks, and a conflating socket can miss one. vLLM 0.32 has no setting for this (its pull requests 52848 and
52814 are open). Knows one name of vLLM. Does not know engines.
"""

from __future__ import annotations

import functools
import time

from consilium.engine.launch_args import QUEUE_NAP, is_nap
from consilium.kernel import logs
from consilium.kernel.config import environment_value

_log = logs.get("engine")


def install() -> None:
    """Let readers of vLLM's queues sleep for as many seconds as CSL_QUEUE_NAP_S says between two looks. A value that is no such time is logged and left."""
    raw = environment_value(QUEUE_NAP)
    if raw is None:
        return
    if not is_nap(raw):
        _log.warning("queue_nap_left", variable=QUEUE_NAP, value=raw)
        return
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.sched_yield = functools.partial(time.sleep, float(raw))
