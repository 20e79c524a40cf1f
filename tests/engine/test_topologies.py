"""Forms of topology with real engines: tensor parallel over two nodes, two replicas on two logical GPUs, and both as a hybrid; a dense model, and a mixture of
experts without a chat template. Tensor parallel in one node is the second cluster of tests/e2e/test_up.py."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.alike import alike

LIMIT_S = 1000.0
ROOT = Path(__file__).parents[2]
SETTINGS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

pytestmark = [pytest.mark.engine, pytest.mark.timeout(LIMIT_S + 30)]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the driver saw on its cluster."""
    state = tmp_path_factory.mktemp("topologies")
    log = state / "driver.log"
    rays = tempfile.mkdtemp(
        prefix="csl-t"
    )  # short, because Ray puts sockets there, and not the folder of another Ray on this machine
    command = [sys.executable, "-m", "tests.engine.topologies_driver", str(state)]
    environment = {**os.environ, **SETTINGS, "RAY_TMPDIR": rays, "VLLM_RPC_BASE_PATH": rays}
    with log.open("wb") as out:
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = driver.wait(LIMIT_S)
    finally:  # also after Ctrl-C, which the driver does not hear
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        shutil.rmtree(rays, ignore_errors=True)
    assert code == 0, log.read_text(errors="replace")[-4000:]
    found = json.loads((state / "seen.json").read_text())
    print({key: value for key, value in found.items() if key.endswith("_s")}, found["kill"])
    return found


def test_all_forms_come_up(seen):
    assert seen["states"] == {"executor-core": "RUNNING", "executor-pair": "RUNNING"}


def test_the_core_stands_on_two_nodes(seen):
    assert seen["nodes_of_groups"] == [2]


@pytest.mark.parametrize("executor", ["core", "pair"])
def test_every_form_answers(seen, executor):
    answer = seen["talk"][executor]
    assert answer["tokens"] == 12
    assert answer["text"]


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.filterwarnings("ignore")  # vLLM and torch warn of themselves
async def test_two_ranks_on_two_nodes_say_what_one_says(seen, dense):
    alone = await dense.chat("Count to ten.", max_tokens=12)
    assert alike(seen["talk"]["core"]["text"], alone.text)


def test_both_replicas_answer_and_say_the_same(seen):
    answers = seen["talk"]["spread"]
    assert len({answer["replica"] for answer in answers}) == 2
    assert alike(seen["talk"]["pair"]["text"], *(answer["text"] for answer in answers))


def test_a_model_without_a_chat_template_is_asked_in_words_and_names(seen):
    assert (seen["talk"]["core"]["template"], seen["talk"]["pair"]["template"]) == (
        "model",
        "plain",
    )
    assert seen["talk"]["words"] == "Be kind.\n\nUser: Hi\nAssistant:"


def test_experts_answer_the_same_in_both_ways(seen):
    assert seen["talk"]["whole"]
    assert seen["talk"]["whole"] == seen["talk"]["streamed"]


def test_a_talk_stays_with_its_replica(seen):
    answers = seen["talk"]["sticky"]
    assert len({answer["replica"] for answer in answers}) == 1
    assert answers[-1]["why"].startswith("holds the beginning of the prompt")


def test_when_a_rank_dies_on_one_node_all_nodes_end_and_start_again(seen):
    assert seen["kill"]["ranks_of_follower"] == 1
    assert seen["kill"]["after_rank_died"] is not None
    assert seen["kill"]["came_back"]


def test_when_the_leader_dies_its_followers_end(seen):
    assert seen["kill"]["after_leader_died"] is not None
