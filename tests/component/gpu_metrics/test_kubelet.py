"""Pods and their cards, from a real gRPC server on a socket: every way of having a card, and a kubelet that is away, slow, or forbidden."""

import asyncio
import os
import pwd
import subprocess
import sys
from contextlib import asynccontextmanager

import grpc
import pytest
from tests.waiting import until_true

from consilium.gpu_metrics.backends.kubelet import Kubelet
from consilium.gpu_metrics.backends.kubelet_api import podresources_pb2 as said
from consilium.gpu_metrics.backends.kubelet_api.podresources_pb2_grpc import (
    PodResourcesListerServicer,
    add_PodResourcesListerServicer_to_server,
)
from consilium.gpu_metrics.exposition import Reading, page
from consilium.gpu_metrics.pods import Holder, holders
from consilium.gpu_metrics.samples import Card, Sample

CARDS = (Card(0, "GPU-a", minor=1), Card(1, "GPU-b", minor=0))


class Lister(PodResourcesListerServicer):
    """A kubelet of the test's own; it answers after `takes_s`."""

    def __init__(self, answer, takes_s=0.0):
        self.answer, self.takes_s, self.asked = answer, takes_s, 0

    async def List(self, request, context):
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        return self.answer


def pod(name, *devices, claims=(), resource="nvidia.com/gpu"):
    one = said.ContainerResources(name="main")
    if devices:
        one.devices.add(resource_name=resource, device_ids=devices)
    for driver, device in claims:
        one.dynamic_resources.add(claim_name="c").claim_resources.add(driver_name=driver, pool_name="node", device_name=device)  # fmt: skip
    return said.PodResources(name=name, namespace="lab", containers=[one, said.ContainerResources(name="page")])  # fmt: skip


ANSWER = said.ListPodResourcesResponse(
    pod_resources=[
        pod("plain", "GPU-a"),
        pod("shared", "GPU-b::0", "GPU-b::3", resource="nvidia.com/gpu.shared"),
        pod("sliced", "MIG-1", resource="nvidia.com/mig-3g.40gb"),
        pod("claimed", claims=[("gpu.nvidia.com", "gpu-1"), ("nic.example.com", "gpu-0")]),
        pod("unlike", "eth0", resource="example.com/nic"),
        pod("none"),
    ]
)


@asynccontextmanager
async def serving(socket, lister):
    server = grpc.aio.server()
    add_PodResourcesListerServicer_to_server(lister, server)
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


@asynccontextmanager
async def watching(socket, **told):
    kubelet = Kubelet(str(socket), **{"period_s": 0.05, "limit_s": 60.0, **told})
    task = asyncio.create_task(kubelet.watch())
    try:
        yield kubelet
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_every_way_of_having_a_card(tmp_path):
    socket = tmp_path / "kubelet.sock"
    async with serving(socket, Lister(ANSWER)), watching(socket) as kubelet:
        await until_true(lambda: kubelet.seen().answers)
        pods = kubelet.seen()
    assert holders(pods.containers, CARDS) == [
        Holder("GPU-a", "lab", "claimed", "main"),
        Holder("GPU-a", "lab", "plain", "main"),
        Holder("GPU-b", "lab", "shared", "main"),
        Holder("MIG-1", "lab", "sliced", "main"),
    ]
    told = page(Sample(0.0, cards=CARDS), Reading(True, 0.0, pods=pods), lambda _: None)
    assert 'consilium_gpu_pod_info{uuid="GPU-b",namespace="lab",pod="shared",container="main"} 1' in told  # fmt: skip
    assert "consilium_gpu_kubelet_up 1" in told


async def test_a_kubelet_that_is_not_there_comes_and_goes(tmp_path):
    socket = tmp_path / "kubelet.sock"
    async with watching(socket, holds_s=0.5) as kubelet:
        await asyncio.sleep(0.2)
        assert not kubelet.seen().answers
        async with serving(socket, Lister(ANSWER)):
            await until_true(lambda: kubelet.seen().answers)
        await until_true(lambda: not kubelet.seen().answers)
        await until_true(lambda: not kubelet.seen().containers)
        told = page(None, Reading(False, 0.0, pods=kubelet.seen()), lambda _: None)
        assert "consilium_gpu_kubelet_up 0" in told
        assert "pod_info{" not in told
        async with serving(socket, Lister(ANSWER)):
            await until_true(lambda: kubelet.seen().answers)


async def test_what_it_said_holds_for_a_while(tmp_path):
    socket = tmp_path / "kubelet.sock"
    async with watching(socket) as kubelet:
        async with serving(socket, Lister(ANSWER)):
            await until_true(lambda: kubelet.seen().answers)
        await until_true(lambda: not kubelet.seen().answers)
        assert kubelet.seen().containers, "a kubelet that is restarted takes no names away"


async def test_a_slow_kubelet_is_asked_again_and_holds_nobody_up(tmp_path):
    socket, lister = tmp_path / "kubelet.sock", Lister(ANSWER, takes_s=600.0)
    async with serving(socket, lister), watching(socket, limit_s=0.2) as kubelet:
        await until_true(lambda: lister.asked >= 2)
        assert not kubelet.seen().answers
        lister.takes_s = 0.0
        await until_true(lambda: kubelet.seen().answers)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be nobody")
async def test_a_kubelet_that_may_not_be_asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open", numbered=True)
    socket = folder / "kubelet.sock"
    ask = f"""
import asyncio, os
from consilium.gpu_metrics.backends.kubelet import Kubelet
kubelet = Kubelet({str(socket)!r})
os.setuid({pwd.getpwnam("nobody").pw_uid})
async def once():
    await kubelet._ask()
    print(kubelet.seen().answers)
asyncio.run(once())
"""
    async with serving(socket, Lister(ANSWER)):
        socket.chmod(0o600)
        child = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", ask], capture_output=True, text=True, timeout=60)  # fmt: skip
    assert child.stdout.split()[-1:] == ["False"], child.stderr
    assert "kubelet_silent" in child.stdout + child.stderr
