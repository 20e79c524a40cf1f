"""SQLite for rooms that keep a file: one writer, readers beside it, versions with a copy aside, and our own errors.

    file = await SqliteFile.open(folder / "registry.db", STEPS)
    await file.write(lambda db: db.execute("INSERT INTO adapters VALUES (?, ?)", row))      one transaction; it is on the disk when this returns
    rows = await file.read(lambda db: db.execute("SELECT * FROM adapters").fetchall())      one snapshot

Writes queue for one thread, reads have a few of their own, so that the event loop never waits for a disk. `work` runs in such a thread: it takes and returns plain
values, and neither commits nor keeps the connection. Constraint errors come through as sqlite3.IntegrityError, for the room to name.

    <file>            WAL, synchronous FULL, foreign keys
    <file>.lock       held by the one process that may write
    <file>.before-N   as it was before the step to version N; the last two stay

Knows files and versions. Does not know what is in them.
"""

from __future__ import annotations

import asyncio
import contextvars
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Final, Self, TypeVar

from consilium.kernel import logs
from consilium.kernel.disk_sync import to_disk
from consilium.kernel.errors import ConsiliumError

BUSY_S: Final = 5.0
"""Seconds to wait for a program that has the file open without asking for the lock, such as a person's sqlite3."""

LOCK_S: Final = 5.0
"""Seconds to wait for the process that wrote before us to end."""

READERS: Final = 4
KEPT_COPIES: Final = 2
WAL_BYTES: Final = 64 * 2**20
"""The write-ahead log is cut to this length once its pages are in the file."""

LITTLE_ROOM: Final = 2**20
"""Free bytes below which an I/O error is taken for a full disk."""

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

_log = logs.get("kernel")


@dataclass(frozen=True, slots=True)
class Step:
    """One version of a file, and how it gets there from the one before.

    version  1, 2, 3 and so on without gaps
    change   SQL statements, or a function; in one transaction with the writing of the version, foreign keys checked at its end. Neither may commit
    """

    version: int
    change: str | Callable[[sqlite3.Connection], object]


class SqliteFile:
    """One file, opened by the one process that may write it."""

    def __init__(self, path: Path, steps: Sequence[Step], readers: int) -> None:
        self.path = path
        self._steps = tuple(steps)
        self._writer = ThreadPoolExecutor(1, f"{path.stem}-writer")
        self._readers = ThreadPoolExecutor(readers, f"{path.stem}-reader")
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._reading = local()
        self._opened: list[sqlite3.Connection] = []

    @classmethod
    async def open(
        cls, path: Path, steps: Sequence[Step], *, readers: int = READERS, lock_s: float = LOCK_S
    ) -> Self:
        """Return the file, checked and brought to the newest version; a new one is made, for this user alone.

        Raises ConsiliumError: conflict (another process has it), state_newer, state_damaged, disk_full.
        """
        file = cls(path, steps, readers)
        try:
            await file._in(file._writer, lambda: file._begin(lock_s))
        except BaseException:
            await file.aclose()
            raise
        return file

    @property
    def version(self) -> int:
        """Return the version of the file."""
        return self._steps[-1].version

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returned, once its transaction is on the disk; if it raises, nothing of it stays.

        Who is cancelled before it has begun writes nothing; a transaction that has begun goes on to its end. Raises ConsiliumError: disk_full, state_damaged,
        concurrent_change (a foreign program keeps the file busy).
        """
        return await self._in(self._writer, lambda: self._written(work))

    async def read(self, work: Work[T]) -> T:
        """Return what `work` returned. It sees the file as it was when it began, whatever is written meanwhile, and may not write."""
        return await self._in(self._readers, lambda: self._read(work))

    async def aclose(self) -> None:
        """Finish what is queued, empty the log into the file, and let go."""
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._opened:
            connection.close()
        self._opened.clear()
        with suppress(RuntimeError):  # closed before
            await self._in(self._writer, self._end)
        self._writer.shutdown()

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        context = contextvars.copy_context()  # log lines keep the request's id
        return await asyncio.get_running_loop().run_in_executor(threads, context.run, work)

    def _written(self, work: Work[T]) -> T:
        db = self._connection
        if db is None:
            raise RuntimeError(f"{self.path} is closed")
        with _named(self.path), _transaction(db, "BEGIN IMMEDIATE"):
            return work(db)

    def _read(self, work: Work[T]) -> T:
        with _named(self.path):
            db: sqlite3.Connection | None = getattr(self._reading, "connection", None)
            if db is None:
                db = self._reading.connection = _connect(self.path)
                db.execute("PRAGMA query_only = ON")
                self._opened.append(db)
            with _transaction(db, "BEGIN"):
                return work(db)

    def _begin(self, lock_s: float) -> None:
        with _opening(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self.path, lock_s)
            self.path.touch(mode=0o600)
            db = self._connection = _connect(self.path)
            if self.path.stat().st_size:
                _check(db, self.path)
            version = _version(db)
            if version > self.version:
                raise _newer(self.path, version, self.version)
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise ConsiliumError(
                    "not_supported",
                    reason=f"{self.path} lies on a file system where SQLite has no write-ahead log (it offers {mode}). Put it on a local disk.",
                )
            if version < self.version:
                self._migrate(db, version)

    def _migrate(self, db: sqlite3.Connection, version: int) -> None:
        if version:
            _copy_aside(db, self.path, version + 1)
        db.execute("PRAGMA foreign_keys = OFF")  # so that a table may be made anew; checked below
        began = time.monotonic()
        for step in self._steps:
            if step.version <= version:
                continue
            with _transaction(db, "BEGIN IMMEDIATE"):
                _change(db, step)
                broken = db.execute("PRAGMA foreign_key_check").fetchone()
                if broken is not None or not db.in_transaction:
                    why = "commits" if broken is None else f"breaks a reference of {broken[0]}"
                    raise RuntimeError(f"the step of {self.path} to version {step.version} {why}")
                db.execute(f"PRAGMA user_version = {step.version:d}")
        if version:
            took_ms = round(1000 * (time.monotonic() - began))
            _log.info(
                "file_migrated",
                file=str(self.path),
                before=version,
                now=self.version,
                took_ms=took_ms,
            )
        db.execute("PRAGMA foreign_keys = ON")

    def _end(self) -> None:
        db, self._connection = self._connection, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    for name, value in (
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("journal_size_limit", WAL_BYTES),
    ):
        db.execute(f"PRAGMA {name} = {value}")
    return db


@contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # a full disk has ended it already
            db.execute("ROLLBACK")
        raise


def _change(db: sqlite3.Connection, step: Step) -> None:
    if not isinstance(step.change, str):
        step.change(db)
        return
    statement = ""
    for part in step.change.split(";"):  # executescript would commit first
        statement += part + ";"
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
    db.execute(statement)  # a comment at the end, or half a statement, which is refused


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _locked(path: Path, wait_s: float) -> int:
    """Return the descriptor that holds the lock; the system lets go of it however the process ends. Raises ConsiliumError(conflict)."""
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    ends = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < ends:
                time.sleep(0.05)
                continue
            holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise ConsiliumError(
                "conflict",
                reason=f"{path} is open in another process (pid {holder}), and only one may write it. End that one, or give this one another folder.",
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock


def _check(db: sqlite3.Connection, path: Path) -> None:
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _damaged(path, str(found).partition("\n")[0])


def _copies(path: Path) -> list[tuple[int, Path]]:
    """Return the copies aside with the version before which they were made, the oldest first."""
    found = []
    for copy in path.parent.glob(f"{path.name}.before-*"):
        number = copy.name.removeprefix(f"{path.name}.before-")
        if number.isdigit():
            found.append((int(number), copy))
    return sorted(found)


def _copy_aside(db: sqlite3.Connection, path: Path, version: int) -> None:
    pages, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "page_size")
    )
    needed = pages * size
    if (free := shutil.disk_usage(path.parent).free) < needed + LITTLE_ROOM:
        raise _full(path, free, needed + LITTLE_ROOM)
    copy = path.with_name(f"{path.name}.before-{version}")
    part = copy.with_name(f"{copy.name}.part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    with closing(sqlite3.connect(part)) as target:
        db.backup(target)
    to_disk(part)
    part.replace(copy)
    to_disk(path.parent)
    for _, old in _copies(path)[:-KEPT_COPIES]:
        old.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let SQLite's errors about the file be ours; those of the statements themselves come through."""
    try:
        yield
    except sqlite3.Error as err:
        told = _told(err, path)
        if told is None:
            raise
        raise told from err


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Let the errors of opening be ours, the system's too."""
    try:
        with _named(path):
            yield
    except OSError as err:
        free = shutil.disk_usage(_there(path)).free
        if free < LITTLE_ROOM:
            raise _full(path, free, LITTLE_ROOM) from err
        raise ConsiliumError(
            "state_damaged", str(err), path=str(path), reason=f"{err.strerror or err}"
        ) from err


def _told(err: sqlite3.Error, path: Path) -> ConsiliumError | None:
    kind = getattr(err, "sqlite_errorcode", 0) & 0xFF
    if kind in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        free = shutil.disk_usage(_there(path)).free
        if kind == sqlite3.SQLITE_FULL or free < LITTLE_ROOM:
            return _full(path, free, LITTLE_ROOM)
        return ConsiliumError(
            "state_damaged",
            str(err),
            path=str(path),
            reason=f"the disk answers with an error ({getattr(err, 'sqlite_errorname', '')}). See the system's log, then start again",
        )
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(err))
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ConsiliumError(
            "concurrent_change",
            str(err),
            retry_after_s=1.0,
            reason=f"{path} is kept busy by a program that did not ask for its lock. Close that program.",
        )
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ConsiliumError(
            "state_damaged",
            str(err),
            path=str(path),
            reason=f"this user may not write it ({err}). Give them the file and its folder",
        )
    return None


def _there(path: Path) -> Path:
    return next(folder for folder in (path.parent, *path.parents) if folder.exists())


def _full(path: Path, free: int, needed: int) -> ConsiliumError:
    return ConsiliumError(
        "disk_full",
        path=str(path.parent),
        free=f"{free / 2**20:.1f} MiB",
        needed=f"{needed / 2**20:.1f} MiB",
    )


def _in_its_place(path: Path, copy: Path) -> str:
    return f"rename {copy} to {path.name} and delete {path.name}-wal and {path.name}-shm"


def _damaged(path: Path, what: str) -> ConsiliumError:
    copies = _copies(path)
    if copies:
        version, copy = copies[-1]
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(copy.stat().st_mtime))
        out = f"To go back to the copy of {day}, made before version {version}: {_in_its_place(path, copy)}"
    else:
        out = "There is no copy beside it: put back a backup, or delete it to begin anew"
    return ConsiliumError(
        "state_damaged",
        what,
        path=str(path),
        reason=f"the file is damaged ({what}). {out}",
    )


def _newer(path: Path, found: int, known: int) -> ConsiliumError:
    fitting = [copy for version, copy in _copies(path) if version - 1 <= known]
    back = (
        f", or {_in_its_place(path, fitting[-1])}, which loses what came later" if fitting else ""
    )
    return ConsiliumError(
        "state_newer",
        name=f"The contents of {path}",
        found=found,
        known=known,
        way_out=f"Start that newer version again{back}",
    )
