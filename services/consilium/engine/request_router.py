"""Our router inside each Serve handle gateway -> engine: affinity.py's decision, Ray's machinery.

Reads its own in-flight counts and what replicas report (`record_routing_stats` -> {"ongoing": n, "at": s, "slots": [...], "ram": [...]}). Every handle has its own router and its own
tables; nothing is shared and nothing is asked over the network. Does not know prompts: the call brings a key of its beginning.

Named in the deployment by `RequestRouterConfig(request_router_class=PATH, request_router_kwargs={"slack": 8})`.

Ray's FIFOMixin is left out on purpose: with it a routing task may hand the replica chosen for one request to another, older one, and prefixes part.
The order of arrival is kept where it matters, in the engine's own queue.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from ray.serve._private.common import RequestMetadata
from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from consilium.engine.affinity import (
    STATS_ONGOING,
    STATS_RAM,
    STATS_SLOTS,
    Decision,
    LoadTable,
    PrefixTable,
    Rules,
    Tier,
    decide,
)
from consilium.kernel.metrics import of_this_process

PATH: Final = "consilium.engine.request_router.AffinityRouter"
_KEPT: Final = 256

_log = logging.getLogger("consilium.engine.router")


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # Ray is untyped
    """Chooses a replica by load now and prefix now."""

    _rules = Rules()
    _turn = 0

    def initialize_state(self, **kwargs: float) -> None:
        """Take the weights of `affinity.Rules` from the deployment's configuration."""
        self._rules = Rules(**kwargs)  # type: ignore[arg-type]  # JSON numbers
        self._prefixes = PrefixTable(self._rules)
        self._loads = LoadTable()
        self._reports: dict[str, dict[str, Any]] = {}
        self._decisions: deque[tuple[str, Decision]] = deque(maxlen=_KEPT)
        self._routing: WeakKeyDictionary[asyncio.Task[Any], PendingRequest] = WeakKeyDictionary()

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return one replica per rank, best first. Ray goes down the ranks while replicas are full."""
        if not candidate_replicas:
            return []
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        began, now = time.perf_counter(), time.monotonic()
        loads = self._loads.loads(list(by_name), now)
        key = prefix_of(pending_request)
        self._turn += 1
        tiers = self._tiers(adapter_of(pending_request))
        decision = decide(loads, self._prefixes.holders(key), self._rules, self._turn, tiers)
        of_this_process().observe(
            "consilium_engine_router_decision_seconds",
            time.perf_counter() - began,
            reason=decision.reason,
        )
        self._prefixes.saw(
            key, decision.replica
        )  # at once: a burst of equal prefixes stays together
        self._spare_the_probe(by_name[decision.replica], decision.load)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
            self._loads.promised(str(id(pending_request)), decision.replica, now)
            if (task := asyncio.current_task()) is not None:
                self._routing[task] = pending_request
            _write_reason(pending_request, decision)
            self._decisions.append((pending_request.metadata.request_id, decision))
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug(
                    "event=routed request=%s replica=%s why=%r",
                    pending_request.metadata.request_id,
                    decision.replica,
                    decision.why(),
                )
        return [[by_name[name]] for name in decision.order]

    def explain(self, request_id: str) -> str | None:
        """Return why the latest attempt of that request went where it went, or None if it is no longer known."""
        return next(
            (
                decision.why()
                for known, decision in reversed(self._decisions)
                if known == request_id
            ),
            None,
        )

    def on_send_request(self, replica_id: ReplicaID) -> None:
        """Count a request out."""
        super().on_send_request(replica_id)
        self._loads.sent(replica_id.unique_id, time.monotonic())

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count a request back, however it ended."""
        super().on_request_completed(replica_id, internal_request_id)
        self._loads.done(replica_id.unique_id)

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Remember the replica that took the request; it may not be the first choice."""
        super().on_request_routed(pending_request, replica_id, result)
        self._prefixes.saw(prefix_of(pending_request), replica_id.unique_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        """Take the count that a replica sends when it accepts or refuses a request."""
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self._loads.told(replica_id.unique_id, num_ongoing_requests, time.monotonic())

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget a replica that died."""
        super().on_replica_actor_died(replica_id)
        self._forget_the_gone()

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Take the new set of replicas, and the reports that come with it."""
        super().update_replicas(replicas)
        self._forget_the_gone()
        now = time.monotonic()
        for replica in replicas:
            name, report = replica.replica_id.unique_id, replica.routing_stats
            total = report.get(STATS_ONGOING)
            if isinstance(total, int | float) and report != self._reports.get(name):
                self._reports[name] = report
                self._loads.heard(name, total, now)

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: RequestMetadata | None = None
    ) -> None:
        """Give the replica to the request that it was chosen for.

        Ray finds that one by its internal id, which calls made side by side within one HTTP request share; the second of them would wait for ever.
        We know it: this task has just asked for it.
        """
        task = asyncio.current_task()
        pending = self._routing.pop(task, None) if task is not None else None
        if pending is None or pending.future.done():
            super()._fulfill_next_pending_request(replica, request_metadata)
            return
        self._record_queue_wait_time(pending)
        pending.future.set_result(replica)
        if self._pending_requests_by_id.get(pending.metadata.internal_request_id) is pending:
            self._remove_pending_request_from_indices(pending)

    def _tiers(self, adapter: str) -> dict[str, Tier]:
        """Return replica -> where it has an adapter, as far as they told."""
        if not adapter:
            return {}
        found: dict[str, Tier] = {}
        for name, report in self._reports.items():
            if adapter in report.get(STATS_SLOTS, ()):
                found[name] = "slot"
            elif adapter in report.get(STATS_RAM, ()):
                found[name] = "ram"
        return found

    def _forget_the_gone(self) -> None:
        alive = {replica_id.unique_id for replica_id in self.curr_replicas}
        self._reports = {name: report for name, report in self._reports.items() if name in alive}
        self._loads.keep_only(alive)
        self._prefixes.keep_only(alive)

    def _spare_the_probe(self, replica: RunningReplica, load: float) -> None:
        # After 10 idle seconds Ray no longer trusts its count and asks the replica first, a round trip before the first token. Ours is
        # still right, and a replica that is full after all refuses by itself.
        if self.replica_queue_len_cache.get(replica.replica_id) is None:
            self.replica_queue_len_cache.update(replica.replica_id, int(load))


def _write_reason(pending_request: PendingRequest, decision: Decision) -> None:
    """Let the call carry its reason to the replica, whose head brings it to the receipt."""
    call = pending_request.args[0] if pending_request.args else None
    if isinstance(call, dict) and "routing" in call:
        call["routing"] = decision.why()


def prefix_of(pending_request: PendingRequest | None) -> str:
    """Return the key of a call's beginning, per adapter (the KV of adapters is not shared), or "" if it brings none."""
    call = _call_of(pending_request)
    key = call.get("prefix_key")
    return f"{call.get('adapter') or ''}|{key}" if key else ""


def adapter_of(pending_request: PendingRequest | None) -> str:
    """Return the reference of the adapter that a call names, or ""."""
    return str(_call_of(pending_request).get("adapter") or "")


def _call_of(pending_request: PendingRequest | None) -> Mapping[str, Any]:
    args: list[Any] = pending_request.args if pending_request is not None else []
    call = args[0] if args else None
    return call if isinstance(call, Mapping) else {}
