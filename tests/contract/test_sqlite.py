"""kernel/sqlite.py on a real disk: one writer, readers beside it, refusals with a way out, a full disk, two processes."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing, suppress

import pytest

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.sqlite import SqliteFile, Step

STEPS = (
    Step(1, "CREATE TABLE talk (id INTEGER PRIMARY KEY, text TEXT UNIQUE, size INTEGER)"),
    Step(
        2,
        """
        CREATE TABLE word (talk INTEGER REFERENCES talk (id), text TEXT);
        CREATE TRIGGER counted AFTER INSERT ON talk BEGIN
            INSERT INTO word VALUES (new.id, 'first; of ' || new.text);
        END;
        -- and no more
        """,
    ),
)
"""Two versions; the second one with semicolons where a split by them would go wrong."""


@pytest.fixture
async def opened(tmp_path):
    found = []

    async def make(path=tmp_path / "talks.db", steps=STEPS, **options):
        found.append(await SqliteFile.open(path, steps, lock_s=0.1, **options))
        return found[-1]

    yield make
    for file in found:
        await file.aclose()


async def refused(awaitable):
    with pytest.raises(ConsiliumError) as caught:
        await awaitable
    return caught.value


def add(text):
    return lambda db: db.execute("INSERT INTO talk (text, size) VALUES (?, ?)", (text, len(text)))


def count(db):
    return db.execute("SELECT count(*) FROM talk").fetchone()[0]


async def test_what_was_written_is_there_and_on_the_disk(opened, tmp_path):
    file = await opened()
    await asyncio.gather(*(file.write(add(f"text {number}")) for number in range(50)))
    assert await file.read(count) == 50
    assert await file.read(lambda db: db.execute("SELECT count(*) FROM word").fetchone()) == (50,)
    told = await file.write(
        lambda db: [
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "user_version")
        ]
    )
    assert told == ["wal", 2, 1, 2]
    assert stat.S_IMODE((tmp_path / "talks.db").stat().st_mode) == 0o600
    await file.aclose()
    assert await (await opened()).read(count) == 50
    assert not list(tmp_path.glob("*.before-*")), "a new file needs no copy aside"


async def test_what_raises_leaves_nothing(opened):
    file = await opened()

    def half(db):
        add("one")(db)
        add("one")(db)

    with pytest.raises(sqlite3.IntegrityError):
        await file.write(half)
    with pytest.raises(sqlite3.IntegrityError):
        await file.write(lambda db: db.execute("INSERT INTO word VALUES (99, 'of nobody')"))
    with pytest.raises(ZeroDivisionError):
        await file.write(lambda db: (add("two")(db), 1 // 0))
    assert await file.read(count) == 0


async def test_a_reader_sees_one_moment_and_may_not_write(opened):
    file = await opened()
    await file.write(add("one"))

    begun, written = threading.Event(), threading.Event()

    def twice(db):
        first = count(db)
        begun.set()
        assert written.wait(60), "a writer does not wait for readers"
        return first, count(db)

    reading = asyncio.ensure_future(file.read(twice))
    await asyncio.to_thread(begun.wait, 60)
    await file.write(add("two"))
    written.set()
    assert await reading == (1, 1)
    assert await file.read(count) == 2
    error = await refused(file.read(add("three")))
    assert error.code == "state_damaged"
    assert await file.read(count) == 2


async def test_the_loop_never_waits(opened):
    file = await opened()
    let_on = threading.Event()
    work = [
        asyncio.ensure_future(file.write(lambda _db: let_on.wait(60))),
        *(asyncio.ensure_future(file.read(lambda _db: let_on.wait(60))) for _ in "ab"),
    ]
    for _ in range(10):
        await asyncio.sleep(0.005)
    assert not any(task.done() for task in work)
    let_on.set()
    assert all(await asyncio.gather(*work))


async def test_who_is_cancelled_in_the_queue_writes_nothing(opened):
    file = await opened()
    begun, let_on = threading.Event(), threading.Event()
    first = asyncio.ensure_future(
        file.write(lambda db: (begun.set(), let_on.wait(60), add("one")(db)))
    )
    second = asyncio.ensure_future(file.write(add("two")))
    await asyncio.to_thread(begun.wait, 60)
    second.cancel()
    first.cancel()
    assert await file.read(count) == 0
    let_on.set()
    await file.write(add("three"))
    texts = await file.read(lambda db: db.execute("SELECT text FROM talk").fetchall())
    assert texts == [("one",), ("three",)], "what has begun goes on to its end"


async def test_a_second_process_is_refused_by_name_and_gets_it_when_the_first_is_killed(
    opened, tmp_path
):
    words = "import asyncio, sys, time\nfrom tests.contract.test_sqlite import *\n"
    words += "async def main():\n f = await SqliteFile.open(Path(sys.argv[1]), STEPS)\n await f.write(add('one'))\n print('held', flush=True)\n time.sleep(600)\n"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"from pathlib import Path\n{words}\nasyncio.run(main())",
        str(tmp_path / "talks.db"),
        stdout=subprocess.PIPE,
    )
    try:
        assert await child.stdout.readline() == b"held\n"
        error = await refused(opened())
        assert error.code == "conflict"
        assert f"(pid {child.pid})" in error.public()
    finally:
        child.kill()
        await child.wait()
    assert await (await opened()).read(count) == 1


async def test_a_program_that_asks_for_no_lock_is_waited_for(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("consilium.kernel.sqlite.BUSY_S", 60.0)
    file = await opened()
    with closing(sqlite3.connect(tmp_path / "talks.db", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        foreign.execute("INSERT INTO talk (text) VALUES ('foreign')")
        write = asyncio.ensure_future(file.write(add("one")))
        await asyncio.sleep(0.1)
        foreign.execute("COMMIT")
        await write
        await file.aclose()
        monkeypatch.setattr("consilium.kernel.sqlite.BUSY_S", 0.5)
        file = await opened()
        foreign.execute("BEGIN IMMEDIATE")
        error = await refused(file.write(add("two")))
        assert error.code == "concurrent_change"
        assert error.retry_after_s
        foreign.execute("ROLLBACK")
    assert await file.read(count) == 2


def rows_of(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT count(*) FROM talk").fetchone()[0]


async def test_a_new_version_has_a_copy_aside_and_the_last_two_stay(opened, tmp_path):
    path = tmp_path / "talks.db"
    for version in range(1, 6):
        steps = (
            STEPS[0],
            *(Step(number, f"CREATE TABLE t{number} (x)") for number in range(2, version + 1)),
        )
        file = await opened(steps=steps)
        await file.write(add(f"of {version}"))
        await file.aclose()
    copies = sorted(file.name for file in tmp_path.glob("*.before-*"))
    assert copies == ["talks.db.before-4", "talks.db.before-5"]
    assert [rows_of(tmp_path / copy) for copy in copies] == [3, 4]
    assert rows_of(path) == 5


async def test_a_newer_file_is_refused_with_the_way_back(opened, tmp_path):
    path = tmp_path / "talks.db"
    old = await opened(steps=STEPS[:1])
    await old.write(add("one"))
    await old.aclose()
    await (await opened()).aclose()
    error = await refused(opened(steps=STEPS[:1]))
    assert error.code == "state_newer"
    assert error.public() == (
        f"The contents of {path} have the version 2, and this program knows 1. Start that newer version again, or rename {path}.before-2 to talks.db "
        "and delete talks.db-wal and talks.db-shm, which loses what came later."
    )
    (tmp_path / "talks.db.before-2").replace(path)
    assert await (await opened(steps=STEPS[:1])).read(count) == 1


async def test_a_step_that_fails_leaves_the_version_before(opened, tmp_path):
    old = await opened()
    await old.write(add("one"))
    await old.aclose()
    for broken in (
        "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1);",
        "DELETE FROM talk",
        "CREATE TABLE more (x); CREATE TRIGGER half AFTER INSERT ON talk BEGIN DELETE FROM word;",
        lambda db: db.execute("COMMIT"),
        lambda _db: 1 // 0,
    ):
        with pytest.raises((sqlite3.Error, RuntimeError, ZeroDivisionError)):
            await opened(steps=(*STEPS, Step(3, broken)))
        file = await opened()
        assert await file.read(count) == 1
        await file.aclose()


@pytest.mark.parametrize("how", ["header", "middle", "other"])
async def test_a_damaged_file_names_the_copy_aside(opened, tmp_path, how):
    path = tmp_path / "talks.db"
    old = await opened(steps=STEPS[:1])
    await old.write(lambda db: [add(f"{number} {'x' * 500}")(db) for number in range(500)])
    await old.aclose()
    await (await opened()).aclose()
    raw = bytearray(path.read_bytes())
    if how == "middle":
        raw[20_000:60_000] = os.urandom(40_000)
    elif how == "header":
        raw[:100] = b"\xff" * 100
    else:
        raw = b"model: demo\n" * 100
    path.write_bytes(raw)
    error = await refused(opened())
    assert error.code == "state_damaged"
    assert f"{path}.before-2" in error.public()
    (tmp_path / "talks.db.before-2").replace(path)
    assert await (await opened()).read(count) == 500
    path.with_name("talks.db.before-2").unlink()


async def test_a_damaged_file_without_a_copy_says_so(opened, tmp_path):
    (tmp_path / "talks.db").write_bytes(b"no database at all, and long enough to be looked at")
    error = await refused(opened())
    assert "There is no copy beside it" in error.public()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_file_of_another_user_is_told(opened, tmp_path):
    await (await opened()).aclose()
    (tmp_path / "talks.db").chmod(0o400)
    assert (await refused(opened())).code == "state_damaged"


async def test_a_file_that_may_not_grow_is_a_full_disk_and_nothing_is_lost(opened):
    file = await opened()
    await file.write(add("one"))
    await file.write(lambda db: db.execute("PRAGMA max_page_count = 20").fetchone())
    error = await refused(file.write(lambda db: add("x" * 200_000)(db)))
    assert error.code == "disk_full"
    await file.write(add("two"))
    assert await file.read(count) == 2
    await file.write(lambda db: db.execute("PRAGMA max_page_count = 10000").fetchone())
    await file.write(add("x" * 200_000))
    assert await file.read(count) == 3


FULL = """
import asyncio, sys
from pathlib import Path
from tests.contract.test_sqlite import STEPS, SqliteFile, Step, add, count, refused

async def main(folder):
    path = folder / "talks.db"
    file = await SqliteFile.open(path, STEPS)
    written = 0
    while written < 1000:
        try:
            await file.write(add(f"{written} {'x' * 50_000}"))
        except Exception as err:
            assert err.code == "disk_full", err
            break
        written += 1
    assert 5 < written < 1000
    assert await file.read(count) == written
    await file.aclose()
    error = await refused(SqliteFile.open(path, (*STEPS, Step(3, "CREATE TABLE t (x)"))))
    assert error.code == "disk_full", error
    (folder / "ballast").unlink()
    file = await SqliteFile.open(path, STEPS)
    await file.write(add("after"))
    assert await file.read(count) == written + 1
    assert await file.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    await file.aclose()
    print("nothing lost of", written)

folder = Path(sys.argv[1])
(folder / "ballast").write_bytes(b"x" * 2**20)
asyncio.run(main(folder))
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="no name spaces here, in which a small disk could be mounted",
)
def test_a_disk_that_is_truly_full(tmp_path):
    mount = f'mount -t tmpfs -o size=6m none {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, FULL],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing lost of")


COUNTS = """
import asyncio, random, sys
from pathlib import Path
from tests.contract.test_sqlite import STEPS, SqliteFile, add

async def main(path, name, dice):
    for part in range(5):
        file = await SqliteFile.open(path, STEPS, lock_s=30)
        for number in range(20):
            await file.write(add(f"{name} {part} {number} {'x' * dice.randrange(3000)}"))
        await file.aclose()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2], random.Random(sys.argv[2])))
"""


async def test_two_processes_that_take_turns_lose_nothing(opened, tmp_path):
    path = tmp_path / "talks.db"
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", COUNTS, str(path), name)
        for name in ("a", "b")
    ]
    foreign = 0
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as third:
        while any(child.returncode is None for child in children):  # one that asks for no lock
            with suppress(sqlite3.OperationalError):  # there is no table yet
                third.execute("INSERT INTO talk (text) VALUES (?)", (f"third {foreign}",))
                foreign += 1
            await asyncio.sleep(0.002)
    assert [child.returncode for child in children] == [0, 0]
    file = await opened()
    assert await file.read(count) == 200 + foreign
    assert await file.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    assert foreign


async def test_kill_9_while_writing_loses_only_what_was_not_acknowledged(opened, tmp_path):
    path = tmp_path / "talks.db"
    words = COUNTS.replace("await file.write(", "print(await file.write(").replace(
        "{'x' * dice.randrange(3000)}\"))", "{'x' * dice.randrange(3000)}\")) and 1, flush=True)"
    )
    acknowledged, dice = 0, random.Random(7)
    for round_ in range(6):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", words, str(path), f"k{round_}", stdout=subprocess.PIPE
        )
        for _ in range(dice.randrange(1, 90)):
            assert await child.stdout.readline() == b"1\n"
            acknowledged += 1
        child.send_signal(signal.SIGKILL)
        said, _ = await child.communicate()
        acknowledged += said.count(b"\n")
    file = await opened()
    assert acknowledged <= await file.read(count) <= acknowledged + 6
    assert await file.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
