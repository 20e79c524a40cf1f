"""The planner answers in a third of a second, so it imports nothing heavy, and nothing that imports something heavy."""

import json
import subprocess
import sys

from tests.arch.source import sources

HEAVY = ("torch", "vllm", "ray", "transformers", "grpc", "pydantic", "numpy", "redis", "starlette")


def test_nothing_heavy_is_reached_from_the_planner():
    by_module = {source.module: source for source in sources()}
    waiting = [(name, (name,)) for name in by_module if name.startswith("consilium.planner")]
    assert waiting
    seen, wrong = set(), []
    while waiting:
        name, way = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for imported in by_module[name].imports:
            if imported.top in HEAVY:
                wrong.append(" -> ".join((*way, imported.module)))
            elif imported.module in by_module:
                waiting.append((imported.module, (*way, imported.module)))
    assert not wrong, "\n".join(wrong)


def test_nothing_heavy_is_loaded_with_the_planner():
    modules = [source.module for source in sources() if source.room == "planner"]
    program = "import importlib, json, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(
        subprocess.run(
            [sys.executable, "-c", program, *modules], capture_output=True, check=True, text=True
        ).stdout
    )
    assert not set(HEAVY) & set(loaded)
