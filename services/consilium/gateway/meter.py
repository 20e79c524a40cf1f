"""What the gateway counts, by the names of the kernel's table.

Knows turns. Does not know Prometheus.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consilium.engine.client import State
from consilium.gateway.cast import Played
from consilium.gateway.gate import Gate
from consilium.kernel.metrics import Metrics

GONE: Final = 499
KINDS: Final = ("prompt", "completion", "cached")
"""Kinds of tokens: those of usage, without `_tokens`."""


class GatewayMeter:
    """Counts turns."""

    def __init__(self, metrics: Metrics, gate: Gate) -> None:
        self._metrics = metrics
        self._gate = gate
        self._begun: set[str] = set()

    def turn(self, played: Played) -> None:
        """Count one turn that has ended, once for each thing that it is asked by."""
        route, name = played.route, played.executor or "none"
        self._metrics.add(
            "consilium_gateway_requests_total",
            route=route,
            code=str(played.status),
            executor=name,
        )
        if not played.executor:
            return
        self._metrics.observe(
            "consilium_gateway_turn_seconds", played.seconds, route=route, executor=name
        )
        if played.first_s is not None:
            self._metrics.observe(
                "consilium_gateway_first_token_seconds", played.first_s, route=route, executor=name
            )
        for stage, seconds in played.stages.items():
            self._metrics.observe("consilium_gateway_stage_seconds", seconds, stage=stage)
        if played.stages:
            self._turns(played)
        for kind in KINDS:
            if count := played.usage.get(f"{kind}_tokens", 0):
                self._metrics.add("consilium_gateway_tokens_total", count, kind=kind, executor=name)
                self._tokens(played, kind, count)
        self.inflight(name)

    def _turns(self, played: Played) -> None:
        if played.role:
            self._metrics.add("consilium_gateway_role_turns_total", role=played.role)
        for adapter in played.adapters:
            self._metrics.add("consilium_gateway_adapter_turns_total", adapter=adapter)
        if played.key:
            self._metrics.add("consilium_gateway_key_turns_total", key=played.key)

    def _tokens(self, played: Played, kind: str, count: int) -> None:
        if played.role:
            self._metrics.add(
                "consilium_gateway_role_tokens_total", count, role=played.role, kind=kind
            )
        for adapter in played.adapters:
            self._metrics.add(
                "consilium_gateway_adapter_tokens_total", count, adapter=adapter, kind=kind
            )
        if played.key:
            self._metrics.add(
                "consilium_gateway_key_tokens_total", count, key=played.key, kind=kind
            )

    def request(self, route: str, status: int) -> None:
        """Count a request that no turn counts, such as one for vectors, or one that was refused before a turn began; 0 = the caller left before its answer."""
        self._metrics.add(
            "consilium_gateway_requests_total",
            route=route,
            code=str(status or GONE),
            executor="none",
        )

    def inflight(self, executor: str) -> None:
        """Tell how many turns an executor has in work now, and how many wait for a place."""
        self._metrics.set(
            "consilium_gateway_inflight_requests", self._gate.running(executor), executor=executor
        )
        self._metrics.set(
            "consilium_gateway_waiting_requests", self._gate.waiting(executor), executor=executor
        )

    def refused(self, code: str) -> None:
        """Count a request that no engine saw, by error code."""
        self._metrics.add("consilium_gateway_rejected_total", reason=code)

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Count a gRPC call that has ended; `code` is the name of a gRPC status."""
        self._metrics.observe("consilium_gateway_rpc_seconds", seconds, method=method, code=code)

    def redis(self, up: bool) -> None:  # noqa: FBT001  the store calls it with what it found
        """Tell whether Redis answers."""
        self._metrics.set("consilium_gateway_redis_up", int(up))

    def executors(self, states: Mapping[str, State]) -> None:
        """Tell which executors answer. Their tokens begin at 0: a counter that is born with its first turn shows no rate of it."""
        for name, state in states.items():
            if name not in self._begun:
                self._begun.add(name)
                for kind in KINDS:
                    self._metrics.add("consilium_gateway_tokens_total", 0, kind=kind, executor=name)
            self._metrics.set("consilium_engine_up", int(state is State.READY), executor=name)

    def fallback(self, executor: str, instead: str) -> None:
        """Count a turn that another executor answered."""
        self._metrics.add("consilium_gateway_fallbacks_total", executor=executor, instead=instead)
