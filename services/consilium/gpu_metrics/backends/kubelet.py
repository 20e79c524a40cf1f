"""The kubelet as a source of pods and their cards: its PodResources service, on a socket of the node.

    kubelet = Kubelet("/var/lib/kubelet/pod-resources/kubelet.sock")
    asyncio.create_task(kubelet.watch())
    kubelet.seen()      -> what it said last, and whether it answers

A kubelet that is away, hangs, or may not be asked costs the names of pods and nothing else. What it said holds for HOLDS_S; then nobody knows who has the cards.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc

from consilium.gpu_metrics.backends.kubelet_api.podresources_pb2 import (
    ContainerResources,
    ListPodResourcesRequest,
    ListPodResourcesResponse,
)
from consilium.gpu_metrics.backends.kubelet_api.podresources_pb2_grpc import PodResourcesListerStub
from consilium.gpu_metrics.pods import Container, Pods
from consilium.kernel import logs

PERIOD_S: Final = 10.0
LIMIT_S: Final = 5.0
HOLDS_S: Final = 60.0
_OPTIONS: Final = (
    ("grpc.default_authority", "localhost"),  # Go's servers refuse a path as the authority
    ("grpc.max_receive_message_length", 16 << 20),  # the kubelet's own limit
)

_log = logs.get("gpu_metrics")


class Kubelet:
    """Asks one kubelet now and then."""

    def __init__(
        self,
        socket: str,
        *,
        period_s: float = PERIOD_S,
        limit_s: float = LIMIT_S,
        holds_s: float = HOLDS_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._socket = socket
        self._period_s, self._limit_s, self._holds_s, self._clock = (
            period_s,
            limit_s,
            holds_s,
            clock,
        )
        self._said: tuple[Container, ...] = ()
        self._at = clock()
        self._answers = False
        self._why = ""

    def seen(self) -> Pods:
        """Return what is known. Waits for nobody."""
        holds = self._clock() - self._at <= self._holds_s
        return Pods(self._answers, self._said if holds else ())

    async def watch(self) -> None:
        """Ask again and again. Never ends by itself, and never fails."""
        while True:
            await self._ask()
            await asyncio.sleep(self._period_s)

    async def _ask(self) -> None:
        # A channel for each question: one that is kept waits longer and longer before it tries a kubelet again that was away.
        try:
            async with grpc.aio.insecure_channel(f"unix://{self._socket}", _OPTIONS) as channel:
                answer = await PodResourcesListerStub(channel).List(
                    ListPodResourcesRequest(), timeout=self._limit_s
                )
        except grpc.aio.AioRpcError as error:
            self._answers = False
            self._tell(f"{error.code().name}: {error.details()}")
            return
        self._said, self._at, self._answers = containers(answer), self._clock(), True
        self._tell("")

    def _tell(self, why: str) -> None:
        """Log a change, not each question."""
        if why and not self._why:
            _log.warning("kubelet_silent", socket=self._socket, why=why)
        elif self._why and not why:
            _log.info("kubelet_answers", socket=self._socket)
        self._why = why


def containers(answer: ListPodResourcesResponse) -> tuple[Container, ...]:
    """Return the containers of an answer that have devices."""
    found = (
        Container(
            pod.namespace,
            pod.name,
            one.name,
            tuple(device for row in one.devices for device in row.device_ids),
            tuple(_claimed(one)),
        )
        for pod in answer.pod_resources
        for one in pod.containers
    )
    return tuple(one for one in found if one.devices or one.claimed)


def _claimed(one: ContainerResources) -> list[tuple[str, str]]:
    return [
        (claim.driver_name, claim.device_name)
        for row in one.dynamic_resources
        for claim in row.claim_resources
    ]
