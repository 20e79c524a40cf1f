"""kill -9 at any point of a migration leaves the version before, whole, or the new one, whole; and the next start goes on from there.

The points are lines: a child runs the real opening under a trace that kills it at the n-th line of kernel/sqlite.py or of the step itself. More kills come
at moments, so that they fall into SQLite's own work too.
"""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from tests.waiting import until

from consilium.kernel import sqlite
from consilium.kernel.sqlite import SqliteFile, Step

ROWS = 3000
LINES = 24
MOMENTS = 12

FIRST = Step(1, "CREATE TABLE talk (id INTEGER PRIMARY KEY, text TEXT, colour TEXT)")


def second(db):
    """Make the table anew under another shape, as SQLite asks for where a column changes."""
    db.execute("CREATE TABLE anew (id INTEGER PRIMARY KEY, text TEXT, color TEXT, size INTEGER)")
    for number, text, colour in db.execute("SELECT * FROM talk").fetchall():
        if number % 500 == 0:
            db.execute("CREATE INDEX IF NOT EXISTS sizes ON anew (size)")
        db.execute("INSERT INTO anew VALUES (?, ?, ?, ?)", (number, text, colour, len(text)))
    db.execute("DROP TABLE talk")
    db.execute("ALTER TABLE anew RENAME TO talk")


STEPS = (FIRST, Step(2, second), Step(3, "CREATE TABLE kept (x); INSERT INTO kept VALUES (3);"))


async def make(path):
    file = await SqliteFile.open(path, STEPS[:1])
    await file.write(
        lambda db: db.executemany(
            "INSERT INTO talk VALUES (?, ?, ?)",
            [(number, f"text {number} {'x' * (number % 300)}", "red") for number in range(ROWS)],
        )
    )
    await file.aclose()


def shape(path):
    """Return the version of a file; its rows must be those of that version, all of them."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        rows = db.execute("SELECT * FROM talk ORDER BY id").fetchall()
    assert tables == {1: {"talk"}, 2: {"talk", "sizes"}, 3: {"talk", "sizes", "kept"}}[version]
    assert len(rows) == ROWS
    for number, row in enumerate(rows):
        text = f"text {number} {'x' * (number % 300)}"
        assert row == (number, text, "red", len(text))[: 3 if version == 1 else 4]
    return version


async def run_child(path, last_line):
    """Open the file, and die at the n-th line."""
    seen = 0

    def trace(frame, event, _arg):
        nonlocal seen
        if frame.f_code.co_filename not in (sqlite.__file__, __file__):
            return None
        if event == "line":
            seen += 1
            if seen == last_line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    threading.settrace(trace)
    file = await SqliteFile.open(Path(path), STEPS)
    await file.aclose()
    print(seen, flush=True)


def child(path, last_line=0):
    words = "import asyncio, sys; from tests.contract import test_sqlite_migration as test; asyncio.run(test.run_child(sys.argv[1], int(sys.argv[2])))"
    return subprocess.Popen(
        [sys.executable, "-c", words, str(path), str(last_line)], stdout=subprocess.PIPE, text=True
    )


def wait_for_lock(path, process):
    lock = path.with_name(f"{path.name}.lock")
    until(lambda: lock.exists() or process.poll() is not None, every_s=0.001)


async def after_a_kill(path):
    """Look at what is left, let the next start go on, and return the version that was left."""
    copies = list(path.parent.glob("*.before-?"))
    left = shape(path)
    for copy in copies:
        assert shape(copy) == int(copy.name[-1]) - 1, "a copy aside is whole or not there"
    file = await SqliteFile.open(path, STEPS)
    await file.aclose()
    assert shape(path) == 3
    assert not list(path.parent.glob("*.part"))
    return left


@pytest.fixture
async def fresh(tmp_path):
    original = tmp_path / "original.db"
    await make(original)

    def copied(name):
        folder = tmp_path / str(name)
        folder.mkdir()
        return Path(shutil.copy(original, folder / "talks.db"))

    return copied


@pytest.mark.timeout(900)
async def test_killed_at_lines(fresh):
    whole = child(fresh("whole"))
    lines = int(whole.communicate(timeout=60)[0].split()[-1])
    dice = random.Random(11)
    # Most lines are the loop of the step: two thirds of the points lie outside of it, so that every part of the opening is met.
    inside = 3 * ROWS
    early = [dice.randrange(1, (lines - inside) // 2) for _ in range(LINES // 3)]
    late = [lines - dice.randrange(0, (lines - inside) // 2) for _ in range(LINES // 3)]
    points = [*early, *late, *(dice.randrange(1, lines) for _ in range(LINES - 2 * (LINES // 3)))]
    left = []
    for point in points:
        path = fresh(f"line-{point}-{len(left)}")
        process = child(path, point)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        left.append(await after_a_kill(path))
    print(f"{lines} lines, killed at {len(points)} of them: left {sorted(left)}")
    assert set(left) >= {1, 3}


@pytest.mark.timeout(900)
async def test_killed_at_moments(fresh):
    dice = random.Random(12)
    left = []
    path = fresh("whole")
    process = child(path)
    await asyncio.to_thread(wait_for_lock, path, process)
    began = time.monotonic()
    process.communicate(timeout=60)
    whole_s = time.monotonic() - began
    for number in range(MOMENTS):
        path = fresh(f"moment-{number}")
        process = child(path)
        await asyncio.to_thread(wait_for_lock, path, process)
        await asyncio.sleep(dice.uniform(0, whole_s))
        process.kill()
        process.communicate(timeout=60)
        left.append(await after_a_kill(path))
    print(f"killed at {MOMENTS} moments: left {sorted(left)}")
