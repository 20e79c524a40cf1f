"""Every form of topology on one Ray cluster of two nodes, with real engines; writes what it saw as JSON. Run by test_topologies.py in a process of
its own, because Serve reads its settings when it is imported.

    python -m tests.engine.topologies_driver STATE_FOLDER

One hybrid configuration: the core is sharded over two nodes, `pair` is two replicas on two logical GPUs, of a mixture of experts that was never taught to
chat. Then ranks and replicas are killed. (Tensor parallel in one node is the second cluster of tests/e2e/test_up.py.)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group_table

from consilium.demo import tiny
from consilium.engine import app, machine
from consilium.engine.backends.serve import DEPLOYMENT, ServeEngine, app_name
from consilium.engine.client import EngineClient, Turn
from consilium.engine.config import EngineView
from consilium.engine.placement import BIND
from consilium.engine.ports import Call, ExecutorInfo
from consilium.engine.ray_head import Head
from consilium.kernel.ports import free_port
from consilium.supervisor import processes

START_S = 600.0
END_S = 120.0
STORE = 100 * 2**20
UNBOUND = {BIND: "nobind", "OMP_NUM_THREADS": "1"}
"""Both replicas would be bound to the same core, and already import there."""
ASK = [{"role": "user", "content": "Count to ten."}]
POLITE = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


def view(models: Path) -> EngineView:
    """Return the configuration. Makes the model of `pair`: without its template it is one that was never taught to chat."""
    base = tiny.make(models / "base-moe", "tiny-moe")
    (base / "chat_template.jinja").unlink(missing_ok=True)
    return EngineView.model_validate(
        {
            "model": "tiny",
            "topology": {"kind": "hybrid", "tensor_parallel": 2, "nodes": 2, "device": "cpu"},
            "engine": {"max_model_len": 1024, "max_num_seqs": 16, "kv_cache_gib": 0.1},
            "executors": {
                "pair": {
                    "model": str(base),
                    "replicas": 2,
                    "device": "gpu",
                    "engine": {"env": UNBOUND},
                },
            },
        }
    )


def cluster() -> Cluster:
    """Return two Ray nodes on this machine, the first with two logical GPUs; as `consilium up` starts a head, without what nobody here looks at."""
    least = {
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "object_store_memory": STORE,
    }
    with mock.patch.object(ray._private.node, "Node", Head):
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, **least})
        made.add_node(num_cpus=1, object_store_memory=STORE)
    ray.init(address=made.address, log_to_driver=False)
    return made


def wait_until_running(names: set[str]) -> dict[str, str]:
    """Return the state of each application, once all run, one failed, or the time is over."""
    end = time.monotonic() + START_S
    while True:
        found = {
            name: str(status.status.value) for name, status in serve.status().applications.items()
        }
        if (
            all(found.get(name) == "RUNNING" for name in names)
            or "DEPLOY_FAILED" in found.values()
            or time.monotonic() > end
        ):
            return found
        time.sleep(
            2.0
        )  # each question costs the controller a tenth of a second of a core that the engines need


@dataclass(frozen=True)
class Talker:
    """Asks executors by name."""

    client: EngineClient
    models: Mapping[str, str]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def ask(
        self, executor: str, route: str, *, prefix: str = "same", **body: Any
    ) -> tuple[Turn, bytes]:
        """Return a turn and the bytes of its answer."""
        call = Call(
            f"{executor}-{next(self.numbers)}",
            route,
            {"model": self.models[executor], **body},
            prefix_key=prefix,
        )  # type: ignore[arg-type]
        async with await self.client.open(executor, call) as turn:
            return turn, b"".join([chunk async for chunk in turn])

    async def say(self, executor: str, *, prefix: str = "same") -> dict[str, Any]:
        """Return one answer: its text, its replica, its template, its counts."""
        turn, body = await self.ask(
            executor, "chat", prefix=prefix, messages=ASK, max_tokens=12, temperature=0
        )
        answer = json.loads(body)
        message = answer["choices"][0]["message"]
        return {
            "text": message.get("reasoning") or message["content"],
            "replica": turn.head.replica,
            "why": turn.head.routing,
            "template": turn.head.template,
            "tokens": answer["usage"]["completion_tokens"],
        }

    async def complete(self, executor: str, *, stream: bool) -> str:
        """Return what a model makes of a beginning."""
        _, body = await self.ask(
            executor, "completions", prompt="Once", max_tokens=6, temperature=0, stream=stream
        )
        lines = (
            [line[6:] for line in body.decode().splitlines() if line.startswith("data: {")]
            if stream
            else [body.decode()]
        )
        return "".join(choice["text"] for line in lines for choice in json.loads(line)["choices"])

    async def template(self, executor: str) -> str:
        """Return the words that a talk becomes."""
        _, tokens = await self.ask(executor, "tokenize", messages=POLITE)
        _, words = await self.ask(executor, "detokenize", tokens=json.loads(tokens)["tokens"])
        return str(json.loads(words)["prompt"])


async def talk(talker: Talker) -> dict[str, Any]:
    """Return answers of every executor, one after the other and together."""
    seen: dict[str, Any] = {}
    for executor in ("core", "pair"):
        seen[executor] = await talker.say(executor)
    seen["spread"] = await asyncio.gather(
        *(talker.say("pair", prefix=f"talk-{i}") for i in range(12))
    )
    seen["sticky"] = [await talker.say("pair", prefix="one talk") for _ in range(6)]
    seen["words"] = await talker.template("pair")
    seen["whole"], seen["streamed"] = [
        await talker.complete("pair", stream=stream) for stream in (False, True)
    ]
    return seen


def ours(title: str) -> list[psutil.Process]:
    """Return this cluster's processes with that title: descendants of this process's raylets."""
    mine = psutil.Process().children(recursive=True)
    found = []
    for process in mine:
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def shared() -> frozenset[Path]:
    """Return what this cluster's processes have in /dev/shm: vLLM's queues. Processes that are killed leave them behind, and Ray kills."""
    return processes.shared_memory(
        filter(
            None,
            (
                processes.identify(process.pid)
                for process in psutil.Process().children(recursive=True)
            ),
        )
    )


def gone_after(ending: list[psutil.Process]) -> float | None:
    """Return the seconds until all of them have ended, or None if one has not."""
    began = time.monotonic()
    _, alive = psutil.wait_procs(ending, timeout=END_S)
    return None if alive else round(time.monotonic() - began, 2)


def wait_for(title: str, other_than: set[int]) -> psutil.Process | None:
    """Return a process with that title that is not one of those, once there is one."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        for process in ours(title):
            if process.pid not in other_than:
                return process
        time.sleep(0.2)
    return None


def kill() -> dict[str, Any]:
    """Kill a follower's rank, then the new leader. Return after how many seconds the others had ended."""
    began = time.monotonic()
    leader, follower = ours("ServeReplica:executor-core")[0], ours("Follower")[0]
    children = follower.children(recursive=True)
    family = [leader, follower, *leader.children(recursive=True), *children]
    ranks = [rank for rank in ours("VLLM::Worker") if rank in children]
    ranks[0].kill()
    seen: dict[str, Any] = {"ranks_of_follower": len(ranks), "after_rank_died": gone_after(family)}
    known = {process.pid for process in family}
    new_follower = wait_for("Follower", known)
    new_leader = wait_for("ServeReplica:executor-core", known)
    seen["again_s"] = round(time.monotonic() - began, 1)
    seen["came_back"] = new_follower is not None and new_leader is not None
    if new_follower is not None and new_leader is not None:
        family = [new_follower, *new_follower.children(recursive=True)]
        new_leader.kill()
        seen["after_leader_died"] = gone_after(family)
    return seen


def main(state: Path) -> int:
    """Write what was seen to `seen.json` in the state folder."""
    began = time.monotonic()
    nodes = cluster()
    seen: dict[str, Any] = {}
    left: frozenset[Path] = frozenset()
    try:
        specs = app.plan(view(state / "made"), state / "models", machine.local(), ray.nodes())
        # Ray listens at Serve's port all the same: one that nobody else has.
        serve.start(proxy_location="Disabled", http_options={"port": free_port()})
        app.submit(specs, drain_s=1.0)
        seen["states"] = wait_until_running({app_name(spec.name) for spec in specs})
        seen["start_s"] = round(time.monotonic() - began, 1)
        groups = [
            group for group in placement_group_table().values() if group["state"] == "CREATED"
        ]
        seen["nodes_of_groups"] = [
            len(set(group["bundles_to_node_id"].values()))
            for group in groups
            if len(group["bundles"]) == 2
        ]
        client = EngineClient(
            {
                spec.name: ServeEngine(ExecutorInfo(spec.name, "engine", spec.served_name))
                for spec in specs
            }
        )
        seen["talk"] = asyncio.run(
            talk(Talker(client, {spec.name: spec.served_name for spec in specs}))
        )
        seen["talk_s"] = round(time.monotonic() - began, 1)
        left = shared()
        seen["kill"] = kill()
        seen["kill_s"] = round(time.monotonic() - began, 1)
        seen["deployment"] = DEPLOYMENT
    finally:
        (state / "seen.json").write_text(json.dumps(seen, indent=1))
        left |= shared()
        ray.shutdown()
        nodes.shutdown()
        processes.remove_shared(left)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
