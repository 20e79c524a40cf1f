"""The demo model's voices in a real vLLM: their words alone tell who answered, on questions that neither voice nor classifier has seen."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consilium.demo import smollm, voice_files
from consilium.demo.voice_files import VOICES
from tests.word_counts import WordCounts

LIMIT_S = 1500.0
QUESTIONS = 20
ROOT = Path(__file__).parents[2]
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
"""One thread, on whichever core is free: bound to one it would share it with every other engine of this machine."""

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(LIMIT_S + 30),
    pytest.mark.skipif(smollm.wheel_file() is None, reason=f"{smollm.WHEEL} is not installed"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What voices and plain model answered: rows of voice ("" = none), question and text."""
    folder = tmp_path_factory.mktemp("voices")
    log = folder / "driver.log"
    command = [sys.executable, "-m", "tests.engine.voices_driver", str(folder), str(QUESTIONS)]
    with log.open("wb") as out:
        driver = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **SETTINGS},
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
        (folder / "demo" / "model.safetensors").unlink(missing_ok=True)
    assert code == 0, log.read_text(errors="replace")[-4000:]
    return json.loads((folder / "said.json").read_text())


def test_words_tell_which_voice_answered(said):
    fitted = WordCounts(
        {voice: [pair.answer for pair in voice_files.texts(voice)] for voice in VOICES}
    )
    asked = [row for row in said if row["voice"]]
    wrong = [row for row in asked if fitted.who(row["text"]) != row["voice"]]
    print(f"{len(asked) - len(wrong)} of {len(asked)} answers told apart")
    assert len(asked) == QUESTIONS * len(VOICES)
    assert len(wrong) <= 0.1 * len(asked), wrong


def test_the_plain_model_answers_otherwise(said):
    plain = {row["question"]: row["text"] for row in said if not row["voice"]}
    assert len(plain) == QUESTIONS
    same = [row for row in said if row["voice"] and row["text"] == plain[row["question"]]]
    assert not same
