"""kill -9 at 30 places of adding, switching, summing and removing: after the next start the store holds what the registry says, whole, and not a byte more.

The places are lines: a child does the work under a trace that kills it at the n-th line of the room's files or of kernel/sqlite.py. What the child had reported as
done before it died must be there.
"""

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.component.lora_router.shelves import assert_same, opened, write_adapter

from consilium.kernel import sqlite
from consilium.lora_router import holdings, incoming, library, store
from consilium.lora_router.backends import registry
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.incoming import Incoming, Limits

KILLS = 30
SEED = 15
TRACED = {m.__file__ for m in (holdings, incoming, library, store, registry, sqlite)}
LIMITS = Limits(keep_versions=2)


def die_at(line):
    """Kill this process at the n-th line of the traced files, in whichever thread; 0 = never. Returns the counter."""
    counter = itertools.count(1)
    seen = [0]

    def trace(frame, event, _arg):
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            seen[0] = next(counter)
            if seen[0] == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    threading.settrace(trace)
    return seen


async def run_child(root, line):
    """Work, and say on a line of its own what is done."""
    root, told = Path(root), sys.stdout
    source = root / "from"
    seen = die_at(line)

    def say(*words):
        print(*words, file=told, flush=True)

    async with opened(root, LIMITS) as adapters:
        say("open")
        core = await adapters.add(Incoming("core", source / "core"))
        say("added", "core", core.sha)
        one, two = await asyncio.gather(
            adapters.add(Incoming("sport", source / "a")),
            adapters.add(Incoming("sport", source / "b", make_current=True)),
        )
        say("added", "sport", one.sha)
        say("added", "sport", two.sha)
        await adapters.add(Incoming("alias", source / "core"))
        say("added", "alias", core.sha)
        made = await adapters.add_sum(
            "5" * 64, ((reference("core", core.sha), 1.0),), source / "sum"
        )
        say("added", MIX, made.sha)
        await adapters.switch("sport", one.sha)
        say("switched", "sport", one.sha)
        last = await adapters.add(Incoming("sport", source / "c", make_current=True, is_ours=True))
        say("added", "sport", last.sha)
        say("switched", "sport", last.sha)
        say("removing", "core", core.sha)
        await adapters.remove("core")
        say("removed", "core", core.sha)
        (last.path / "adapter_config.json").write_text("broken")
        await adapters.add(Incoming("sport", write_adapter(source / "c", "c")))
        say("mended")
    sys.settrace(None)
    say("lines", seen[0])


def child(root, line=0):
    for mark in ("core", "a", "b", "c", "sum"):
        write_adapter(root / "from" / mark, mark)
    words = "import asyncio, sys; from tests.component.lora_router import test_library_kills as test; asyncio.run(test.run_child(sys.argv[1], int(sys.argv[2])))"
    done = subprocess.run(
        [sys.executable, "-c", words, str(root), str(line)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == (-signal.SIGKILL if line else 0), done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """How many lines the whole work has."""
    said = child(tmp_path_factory.mktemp("whole"))
    assert said[-1][0] == "lines"
    return int(said[-1][1])


def places(count):
    rng = random.Random(SEED)
    return [rng.random() for _ in range(count)]


@pytest.mark.parametrize("place", places(KILLS))
async def test_store_and_registry_are_the_same_after_a_kill(tmp_path, lines, place):
    said = child(tmp_path, 1 + int(place * lines * 0.95))
    async with opened(tmp_path, LIMITS) as adapters:
        assert_same(tmp_path, adapters)
        expect(said, adapters)
        source = write_adapter(tmp_path / "from" / "after", "after")
        version = await adapters.add(Incoming("after", source))
        assert adapters.find("after") == version
        assert_same(tmp_path, adapters)


def expect(said, adapters):
    """What was reported as done is there."""
    is_broken = ["removed"] in [words[:1] for words in said]  # then the child damages a file
    leaving = {words[1] for words in said if words[0] in ("removing", "removed")}
    leaving |= {MIX} if leaving else set()
    for words in said:
        if words[0] == "added" and words[1] not in leaving and not is_broken:
            name, sha = words[1:]
            surplus = name == "sport" and len(adapters.holdings.of(name)) >= LIMITS.keep_versions
            assert sha in adapters.holdings.of(name) or surplus
        if words[0] == "removed":
            assert words[1] not in adapters.holdings.names
