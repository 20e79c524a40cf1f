"""How long one routing decision takes: the whole `choose_replicas` of our router, with Ray's base class beneath and no cluster.

    python -m tests.bench.router_decision            # or: python tests/bench/router_decision.py

Prints median and 99th percentile in milliseconds for 2, 8 and 32 replicas, and exits 1 when a median is over the bar of 0.2 ms.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from types import SimpleNamespace

from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve.request_router import PendingRequest

from consilium.engine.request_router import AffinityRouter

BAR_MS = 0.2
ROUNDS = 5000
DEPLOYMENT = DeploymentID(name="Engine", app_name="executor-core")


def replica(number: int, **more: object) -> SimpleNamespace:
    """Return what the router reads of Ray's RunningReplica."""
    fields = {
        "replica_id": ReplicaID(f"r{number:02}", DEPLOYMENT),
        "max_ongoing_requests": 80,
        "routing_stats": {},
        "node_id": "n",
        "availability_zone": None,
    }
    return SimpleNamespace(**{**fields, **more})


def request(number: int, prefix: str) -> PendingRequest:
    """Return a request as Serve's router holds it."""
    metadata = RequestMetadata(request_id=f"req-{number}", internal_request_id=f"int-{number}")
    return PendingRequest(
        args=[{"id": str(number), "prefix_key": prefix, "adapter": None}],
        kwargs={},
        metadata=metadata,
    )


def router(**weights: float) -> AffinityRouter:
    """Return a router without a cluster. Must be called in a running event loop."""
    made = AffinityRouter(
        deployment_id=DEPLOYMENT,
        handle_source=DeploymentHandleSource.REPLICA,
        use_replica_queue_len_cache=True,
    )
    made.initialize_state(**weights)
    return made


async def measure(replicas: int, rounds: int = ROUNDS, seed: int = 1) -> list[float]:
    """Return the milliseconds of each decision, with about 16 requests in flight per replica and 200 prefixes in use."""
    dice = random.Random(seed)
    ours = router()
    all_replicas = [replica(i) for i in range(replicas)]
    in_flight: list[ReplicaID] = []
    taken: list[float] = []
    for number in range(rounds):
        pending = request(number, f"frame-{dice.randrange(200)}")
        start = time.perf_counter()
        ranks = await ours.choose_replicas(all_replicas, pending)
        taken.append((time.perf_counter() - start) * 1000)
        ours.on_send_request(ranks[0][0].replica_id)
        in_flight.append(ranks[0][0].replica_id)
        if len(in_flight) > 16 * replicas:
            ours.on_request_completed(in_flight.pop(dice.randrange(len(in_flight))), "")
    return taken


def main() -> int:
    """Print the table; return 1 when a median is over the bar."""
    worst = 0.0
    for count in (2, 8, 32):
        taken = sorted(asyncio.run(measure(count)))
        median, high = statistics.median(taken), taken[int(len(taken) * 0.99)]
        worst = max(worst, median)
        print(
            f"{count:3} replicas: p50 {median:.4f} ms, p99 {high:.4f} ms over {len(taken)} decisions (bar: p50 {BAR_MS} ms)"
        )
    return 0 if worst <= BAR_MS else 1


if __name__ == "__main__":
    sys.exit(main())
