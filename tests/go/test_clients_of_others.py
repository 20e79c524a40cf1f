"""Clients that nobody wrote for us, as they are, before a whole cluster: from npm and from PyPI, each by a program of tests/clients that tells what came of it.

The model has random weights: what it says is nothing, so each client is asked for things that are right whatever it says.
"""

import asyncio
import json
import os

import pytest
from tests.real.packages import NODE, PYTHON, words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CITIES = ("Paris", "Rome")
GONE = 499
RUNS_S = 600
WIDTH = 768


@pytest.fixture
def told(cluster):
    """Run a program and return what it told."""

    async def run(packages, program, **environment):
        process = await asyncio.create_subprocess_exec(
            *words(packages, program),
            env={**os.environ, "BASE_URL": f"{cluster.url}/v1", "KEY": cluster.key, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), RUNS_S)
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, f"{out.decode()}\n{err.decode()}"
        return json.loads(out.decode().splitlines()[-1])

    return run


async def test_openai_node(told):
    report = await told(NODE, "openai_node.mjs")
    assert {"auto", "base", "executor/core", "minilm-e5"} < set(report["models"])
    assert report["types"]["base"] == "chat"
    assert report["types"]["minilm-e5"] == "embedding"
    assert report["one"] == "executor/core"
    assert report["chat"] == report["streamed"] == report["responses"] == 4
    assert report["chunks"] >= 4
    check_choices(report)
    assert report["embeddings"] == ["minilm-e5", 2, WIDTH]
    assert report["errors"] == [
        ["AuthenticationError", 401, "unauthenticated"],
        ["NotFoundError", 404, "model_unknown"],
        ["BadRequestError", 400, "invalid_request"],
    ]
    assert report["cancelled"] == GONE


@pytest.mark.parametrize("provider", ["compatible", "openai"])
async def test_the_ai_sdk(told, provider):
    report = await told(NODE, "ai_sdk.mjs", PROVIDER=provider)
    assert report["chat"] == report["streamed"] == 4
    assert report["chunks"] >= 1
    check_choices(report)
    assert report["embeddings"] == [WIDTH, WIDTH]
    assert report["errors"] == [
        [True, 401, "unauthenticated"],
        [True, 404, "model_unknown"],
        [True, 400, "invalid_request"],
    ]
    assert report["cancelled"] == GONE


@pytest.mark.parametrize("responses", ["no", "yes"])
async def test_langchain_for_javascript_as_n8n_uses_it(told, responses):
    report = await told(NODE, "langchain_js.mjs", RESPONSES=responses)
    assert report["chat"] == 4
    assert report["chunks"] >= 1
    check_choices(report)
    assert report["embeddings"] == [WIDTH, WIDTH]
    assert report["error"] == [400, "invalid_request"]


async def test_litellm(told):
    report = await told(PYTHON, "litellm_client.py", LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert {"auto", "base"} <= {name.rpartition("/")[2] for name in report["models"]}
    assert report["chat"] == 4
    assert report["chunks"] >= 1
    check_choices(report)
    assert report["embeddings"] == [WIDTH, WIDTH]
    assert report["errors"] == [
        ["AuthenticationError", 401],
        ["NotFoundError", 404],
        ["BadRequestError", 400],
    ]


async def test_llama_index(told):
    report = await told(PYTHON, "llama_index_client.py")
    assert report["chat"] == 4
    assert report["chunks"] >= 1
    assert report["tool"] == ["weather"]
    assert report["embeddings"] == [WIDTH, WIDTH]
    assert report["error"] == ["BadRequestError", 400]


async def test_llm_of_the_command_line(cluster, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: mine\n  model_name: role/quick\n  api_base: {cluster.url}/v1\n  api_key_name: mine\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"mine": cluster.key}))
    python, _ = words(PYTHON, "")
    for more in ((), ("--no-stream",)):
        process = await asyncio.create_subprocess_exec(
            python, "-m", "llm", "-m", "mine", "-o", "max_tokens", "64", *more, "Say something.",
            env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), RUNS_S)
        assert process.returncode == 0, err.decode()
        assert out


def check_choices(report):
    """The model had the choice of two cities, and took one."""
    name, city = report["tool"]
    assert name == "weather"
    assert city in CITIES
    assert report["structured"] in CITIES
