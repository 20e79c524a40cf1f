"""Which cards a replica has, or a follower of it on another node, as a metric: so watts and memory of a card can be told by executor.

    tell("core", "0")      in the process to which Ray gave the cards; returns at once

Ray names the cards in CUDA_VISIBLE_DEVICES, by number or UUID; the house's one reader turns that into UUIDs, also of MIG slices. A process without cards says nothing,
and asks no driver. Does not know what a card does, or what it draws.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import ray

from consilium.kernel import gpus, logs
from consilium.kernel.metrics import of_this_process

PAUSES_S: Final = (0.0, 15.0, 60.0)
"""Before each look: a driver that is busy with a model's weights may not answer the first one in time."""

_log = logs.get("engine")


def tell(executor: str, replica: str) -> None:
    """Say which cards this process has, in a thread of its own: nobody waits for a driver."""
    if ray.get_gpu_ids():
        threading.Thread(target=look, args=(executor, replica), daemon=True, name="cards").start()


def look(executor: str, replica: str) -> None:
    """Ask for the cards that this process sees, and say them. Cards that Ray only counts, on a machine without a driver, are none."""
    if not gpus.has_driver():
        return
    for pause_s in PAUSES_S:
        time.sleep(pause_s)
        seen = gpus.read(visible_only=True)
        if seen.cards:
            break
    else:
        _log.warning("cards_not_told", executor=executor, why=seen.why_none)
    for card in seen.cards:
        if card.uuid:
            of_this_process().set(
                "consilium_engine_gpu_info", 1, executor=executor, replica=replica, uuid=card.uuid
            )
