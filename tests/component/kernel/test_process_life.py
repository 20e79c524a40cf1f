"""A real process: signals, drain, exit codes, and what stands on stderr."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from consilium.kernel import logs
from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import run

class App:
    async def start(self):
        if mode == "refuses":
            raise ConsiliumError("gpu_missing", key="topology.device", asked=2, seen=1)
        if mode == "breaks":
            raise ZeroDivisionError("password=hunter2")
        print("started", flush=True)
    async def wait(self):
        if mode == "ends":
            return
        if mode == "dies":
            raise ConsiliumError("part_failed", name="redis", reason="it ended with 1")
        await asyncio.Event().wait()
    async def stop(self, grace_s):
        print("stopping", grace_s, flush=True)
        if mode == "drains":
            await asyncio.sleep(0.3)
        if mode == "hangs":
            await asyncio.sleep(600)
        print("stopped", flush=True)

mode = sys.argv[1]
logs.configure("test", form="json")
sys.exit(run(App(), grace_s=7.0))
"""


@pytest.fixture
def start():
    running = []

    def begin(mode):
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, mode],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return running[-1]

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_process_ends_well(start, number):
    process = start("drains")
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopping 7.0\nstopped\n")
    assert '"event": "process_stopping"' in err


def test_a_second_signal_ends_at_once(start):
    process = start("hangs")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopping 7.0\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("mode", "code", "sentence"),
    [
        ("ends", 0, ""),
        (
            "refuses",
            66,
            "error: topology.device asks for 2 GPU(s), and 1 were seen.\nnext: Run nvidia-smi;",
        ),
        ("dies", 72, "error: redis did not come up: it ended with 1\nnext: "),
        (
            "breaks",
            1,
            "error: Something unexpected ended this process (ZeroDivisionError).\nnext: Its log holds the cause.\n",
        ),
    ],
)
def test_the_end_has_a_number_and_a_sentence(start, mode, code, sentence):
    process = start(mode)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert sentence in err
    assert out.endswith("stopping 0.0\nstopped\n"), "what was begun is let go of"
    assert "hunter2" not in "".join(line for line in err.splitlines() if not line.startswith("{"))
