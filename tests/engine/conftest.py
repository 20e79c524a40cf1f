"""One real engine for a whole session of tests: vLLM on this machine's CPU, with the tiny dense Qwen3."""

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from consilium.demo import tiny
from consilium.engine import heavy_imports, wire
from consilium.engine.ports import PRIORITY, Call, Head, Lane, Tail

CONTEXT = 512
PLACES = 8
BLOCKS = 24
"""Of 128 tokens each, on CPU. PLACES full contexts take 32, so that calls can push each other out (test_lanes.py)."""
BLOCK_BYTES = 128 * 2 * tiny.LAYERS * tiny.KV_HEADS * tiny.HEAD_DIM * 2
_numbers = itertools.count(1)


@dataclass
class Said:
    """One whole answer."""

    head: Head
    body: bytes
    tail: Tail

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    @property
    def text(self) -> str:
        if not self.head.stream:
            choice = self.json["choices"][0]
            return choice["message"]["content"] if "message" in choice else choice["text"]
        choices = [event["choices"][0] for event in self.events if event["choices"]]
        return "".join(
            choice["delta"].get("content") or "" if "delta" in choice else choice["text"]
            for choice in choices
        )


class Asker:
    """Asks an engine in its own process. `died` gets what the engine reports when it dies, `cores` are the processes of its core."""

    def __init__(self) -> None:
        self.engine: Any = None
        self.died: asyncio.Queue[BaseException] = asyncio.Queue()
        self.cores: set[int] = set()

    def call(self, route: str, lane: Lane = "interactive", **body: Any) -> Call:
        return Call(
            f"t{next(_numbers)}",
            route,  # type: ignore[arg-type]
            {"model": self.engine.info().model, **body},
            lane=lane,
            priority=PRIORITY[lane],
        )

    async def ask(self, route: str, **body: Any) -> Said:
        reader, raw = wire.Reader(), b""
        head, tail = Head(0, False, ""), None
        async for frame in self.engine.stream(self.call(route, **body)):
            item = reader.take(frame)
            head, tail = item.head or head, item.tail or tail
            raw += item.body
        assert tail is not None
        return Said(head, raw, tail)

    async def chat(self, text: str = "Hello", **body: Any) -> Said:
        return await self.ask(
            "chat",
            **{
                "messages": [{"role": "user", "content": text}],
                "temperature": 0,
                "max_tokens": 8,
                **body,
            },
        )


def counted(name: str) -> float:
    """Return a figure of the engine, over all its labels."""
    figures = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(one.value for one in figures if one.name == name)


def cores() -> set[int]:
    """Return the process ids of the engine cores of this process."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # a child may be ending just now
            if "EngineCore" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the test that kills the engine of the session behind all who ask it."""
    items.sort(key=lambda item: item.path.name == "test_dead_engine.py")


@pytest.fixture(autouse=True, scope="session")
def _alone() -> Any:
    """Say nothing to anybody: no hub, no usage reports. Leave no sockets in /tmp; pytest's own folder would make their paths too long."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="csl-v") as sockets,
    ):
        patch.setenv("VLLM_RPC_BASE_PATH", sockets)
        for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK"):
            patch.setenv(name, "1")
        yield


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def dense(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Asker]:
    """The engine of the session: the only one in this process, so it has all that any test needs of one, room for adapters too."""
    asker = Asker()
    heavy_imports.load("consilium.engine.backends.vllm")
    from consilium.engine.backends.vllm import VllmEngine, VllmSettings

    model = tiny.make(tmp_path_factory.mktemp("models") / "tiny")
    args = {
        "model": str(model),
        "served_model_name": "tiny",
        "enforce_eager": True,
        "max_model_len": CONTEXT,
        "max_num_seqs": PLACES,
        "scheduling_policy": "priority",
        "enable_lora": True,
        "max_loras": 2,
        "max_cpu_loras": 4,
        "max_lora_rank": 16,
        "kv_cache_memory_bytes": BLOCKS * BLOCK_BYTES,
        "structured_outputs_config": {
            "backend": "xgrammar",
            "disable_any_whitespace": True,
        },  # a random model would indent for ever
    }
    parsers = {"tool_call_parser": "hermes", "enable_auto_tool_choice": True}
    asker.engine = VllmEngine(
        VllmSettings("core", args, parsers, revision="test", lora_wait_s=120.0),
        on_dead=asker.died.put_nowait,
    )
    await asker.engine.start()
    asker.cores = cores()
    try:
        yield asker
    finally:
        await asker.engine.stop()
