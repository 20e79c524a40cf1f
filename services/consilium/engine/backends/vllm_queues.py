"""How vLLM's processes wait for each other: a plugin of vLLM, loaded by it into each of its processes (entry point `vllm.general_plugins` in
pyproject.toml). Changes nothing unless CSL_QUEUE_NAP_S is set.

An engine core and its workers hand steps to each other through queues in shared memory. Who waits there, for something to read or for a free place, calls
sched_yield between two looks. A step comes every few milliseconds and a reader gives up after a second, so during an answer whoever waits keeps a core busy.
Where cores compute the model that costs speed, and Linux with the EEVDF scheduler (seen on 6.18) can let other processes starve for seconds behind such a loop.
Here they sleep instead. The other way, to park on the queue's notification socket at once, was tried and loses wake-ups for up to five seconds: ZeroMQ drops
a notification that follows another within 3 million ticks, and a conflating socket can miss one. vLLM 0.32 has no setting for this (its pull requests 52848 and
52814 are open); VLLM_USE_SPINLOOP_EXT spins in C for a tenth of a second before it comes here. Knows one name of vLLM. Does not know engines.
"""

from __future__ import annotations

import functools
import time

from consilium.engine.launch_args import QUEUE_NAP, is_nap
from consilium.kernel import logs
from consilium.kernel.config import environment_value

_log = logs.get("engine")


def install() -> None:
    """Let who waits at vLLM's queues sleep for as many seconds as CSL_QUEUE_NAP_S says between two looks. A value that is no such time is logged and left."""
    raw = environment_value(QUEUE_NAP)
    if raw is None:
        return
    if not is_nap(raw):
        _log.warning("queue_nap_left", variable=QUEUE_NAP, value=raw)
        return
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.sched_yield = functools.partial(time.sleep, float(raw))


def warn_if_left() -> None:
    """Log a warning if CSL_QUEUE_NAP_S is set and vLLM did not load this plugin, or spins before it comes to it. Call once the engine has started."""
    if environment_value(QUEUE_NAP) is None:
        return
    from vllm.distributed.device_communicators import shm_broadcast

    if getattr(shm_broadcast.sched_yield, "func", None) is not time.sleep:
        _log.warning("queue_nap_left", variable=QUEUE_NAP, why="vLLM has not loaded the plugin consilium_queues: see VLLM_PLUGINS, or run 'make setup'")
    elif shm_broadcast.SPINLOOP_EXT_ENABLED:
        _log.warning("queue_nap_left", variable=QUEUE_NAP, why="VLLM_USE_SPINLOOP_EXT spins before it")
