"""What a replica leaves behind when it is killed, or ends without a word, is ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.waiting import sooner_than, until

from consilium.engine import leash

REPLICA = """
import os, subprocess, sys, time
from consilium.engine import leash
os.environ[leash.VARIABLE] = sys.argv[1]
kept = leash.tie(sys.argv[1])
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
for code in ("import time; time.sleep(600)", deaf):
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
sys.stdin.readline()
os._exit(72)
"""


def gone(name):
    until(lambda: not leash.tied(name), why="something is left")


def listening(name):
    """Return the leash, once it has made itself deaf to SIGTERM."""
    found = []

    def is_there():
        found.extend(
            pid
            for pid in leash.tied(name)
            if "leash.py" in Path(f"/proc/{pid}/cmdline").read_text() and ignores_sigterm(pid)
        )
        return found

    until(is_there, why="it did not start")
    return found[0]


def ignores_sigterm(pid):
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    )
    return int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1


@pytest.mark.parametrize("way", ["wait", "exit"])
def test_a_replica_that_is_killed_or_ends_at_once_leaves_nothing(way):
    name = f"test-{os.getpid()}-{way}"
    with subprocess.Popen(
        [sys.executable, "-c", REPLICA, name, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as replica:
        assert replica.stdout.readline() == b"deaf\n"
        assert (
            len(leash.tied(name)) == 3
        )  # two that it started, and the leash; its own environment was read before it was set
        os.kill(listening(name), signal.SIGTERM)  # as `down` does to all at once
        if way == "wait":
            time.sleep(0.2)
            assert len(leash.tied(name)) == 3
            replica.kill()
        else:
            replica.stdin.close()
        replica.wait(60)
        gone(name)


def test_what_ends_by_itself_is_not_waited_for():
    seen = iter([(), ()])
    with sooner_than(90.0):
        leash.end("nobody", 90.0, look=lambda _name: next(seen))


SHARER = """
import multiprocessing, os, subprocess, sys, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from consilium.engine import leash
os.environ[leash.VARIABLE] = sys.argv[1]
kept = leash.tie(sys.argv[1])
context = multiprocessing.get_context("spawn")
lock, block = context.Lock(), SharedMemory(create=True, size=4096)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf], pass_fds=(resource_tracker.getfd(),), stdout=subprocess.PIPE)
child.stdout.readline()
if sys.argv[2:]:
    leash.remember(kept)
print("sem." + lock._semlock.name.lstrip("/"), block.name.lstrip("/"), flush=True)
time.sleep(600)
"""


def test_semaphores_and_shared_memory_of_a_killed_replica_are_removed():
    """The tracker that removes them was killed together with those that it watches."""
    name = f"test-{os.getpid()}-shared"
    environment = {**os.environ, leash.VARIABLE: name}
    with subprocess.Popen(
        [sys.executable, "-c", SHARER, name], stdout=subprocess.PIPE, env=environment
    ) as replica:
        made = [Path("/dev/shm") / word for word in replica.stdout.readline().decode().split()]
        assert len(made) == 2
        assert all(path.exists() for path in made)
        replica.kill()
        replica.wait(60)
    gone(name)
    assert [path for path in made if path.exists()] == []


def test_where_the_tracker_is_killed_too_the_leash_removes_what_it_was_told():
    """As Ray does to the processes of a worker that died."""
    name = f"test-{os.getpid()}-told"
    with subprocess.Popen(
        [sys.executable, "-c", SHARER, name, "remember"], stdout=subprocess.PIPE
    ) as replica:
        made = [Path("/dev/shm") / word for word in replica.stdout.readline().decode().split()]
        assert all(path.exists() for path in made)
        deaf = listening(name)
        for pid in leash.tied(name):
            if pid != deaf:
                os.kill(pid, signal.SIGKILL)
        replica.kill()
        replica.wait(60)
    gone(name)
    assert [path for path in made if path.exists()] == []
