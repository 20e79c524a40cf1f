"""The registry of adapters in one SQLite file: names, versions with their proofs and counters, the parts of sums.

Knows SQL. Does not know what a name means or where files lie: it is told by `folder`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from consilium.kernel.sqlite import SqliteFile, Step
from consilium.lora_router import trials
from consilium.lora_router.ports import (
    Changes,
    Held,
    Named,
    Placement,
    Proof,
    Registered,
    StoredVersion,
    Uses,
)

STEPS: Final = (
    Step(
        1,
        """
        CREATE TABLE names (
            name TEXT PRIMARY KEY,
            current TEXT NOT NULL,
            placement TEXT NOT NULL,
            from_config INTEGER NOT NULL,
            settings TEXT NOT NULL,
            origin TEXT NOT NULL,
            entry TEXT NOT NULL
        ) STRICT;
        CREATE TABLE versions (
            name TEXT NOT NULL,
            sha TEXT NOT NULL,
            lora_int_id INTEGER NOT NULL UNIQUE,
            rank INTEGER NOT NULL,
            file_bytes TEXT NOT NULL,
            stored_at REAL NOT NULL,
            is_3d INTEGER NOT NULL,
            base TEXT NOT NULL,
            proof TEXT NOT NULL,
            proof_json TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            remarks TEXT NOT NULL,
            address TEXT NOT NULL,
            standing TEXT NOT NULL DEFAULT '',
            slot_hits INTEGER NOT NULL,
            ram_hits INTEGER NOT NULL,
            misses INTEGER NOT NULL,
            last_used_at REAL NOT NULL,
            PRIMARY KEY (name, sha)
        ) STRICT;
        CREATE TABLE parts (
            name TEXT NOT NULL,
            sha TEXT NOT NULL,
            position INTEGER NOT NULL,
            reference TEXT NOT NULL,
            weight REAL NOT NULL,
            PRIMARY KEY (name, sha, position),
            FOREIGN KEY (name, sha) REFERENCES versions (name, sha) ON DELETE CASCADE
        ) STRICT;
        """,
    ),
    Step(2, "ALTER TABLE versions ADD COLUMN trials TEXT NOT NULL DEFAULT '{}';"),
    Step(
        3,
        """
        ALTER TABLE names ADD COLUMN waiting TEXT NOT NULL DEFAULT '';
        UPDATE names SET waiting = coalesce((
            SELECT newest.sha FROM versions AS newest
            WHERE newest.name = names.name AND newest.proof = 'unproven' AND newest.sha <> names.current
            AND newest.stored_at = (SELECT max(stored_at) FROM versions WHERE name = names.name)
        ), '') WHERE current <> '';
        """,
    ),
)
"""`standing` waits for the guard: it belongs to a content, not to a name. What was said of a name is JSON, read with defaults for what it lacks."""

_SETTINGS: Final = (
    "with_core",
    "core_weight",
    "weight",
    "isolated",
    "executors",
    "domain",
    "examples",
    "triggers",
    "threshold",
)
_LISTS: Final = frozenset({"executors", "examples", "triggers"})

_NAME_COLUMNS: Final = "name, current, placement, from_config, settings, origin, entry, waiting"
_VERSION_COLUMNS: Final = (
    "name, sha, lora_int_id, rank, file_bytes, stored_at, is_3d, base, proof, proof_json, fingerprint, remarks, address, "
    "slot_hits, ram_hits, misses, last_used_at, trials"
)


@dataclass(frozen=True, slots=True)
class Peeked:
    """What a name is, as somebody sees it who may not write."""

    current: str
    from_config: bool
    executors: tuple[str, ...]

    def folder(self, store: Path) -> Path:
        """Return where the version that answers lies."""
        return store / self.current[:2] / self.current


def peek(path: Path) -> dict[str, Peeked]:
    """Return the names of a registry that this process does not own; none where there is none, or it cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=1.0)) as db:
            rows = db.execute("SELECT name, current, from_config, settings FROM names").fetchall()
    except sqlite3.Error:
        return {}
    return {
        name: Peeked(current, bool(configured), tuple(json.loads(settings).get("executors", ())))
        for name, current, configured, settings in rows
    }


class SqliteRegistry:
    """The registry in a file that this process alone may write."""

    def __init__(self, file: SqliteFile, folder: Callable[[str], Path]) -> None:
        self._file = file
        self._folder = folder

    @classmethod
    async def open(cls, path: Path, folder: Callable[[str], Path]) -> Self:
        """Return the registry in a file, which is made where there is none.

        folder  hash -> where the version lies

        Raises ConsiliumError: conflict (another process has it), state_newer, state_damaged, disk_full.
        """
        return cls(await SqliteFile.open(path, STEPS), folder)

    async def load(self) -> tuple[Sequence[Named], Sequence[Held]]:
        """Return everything."""

        def read(db: sqlite3.Connection) -> tuple[list[Named], list[Held]]:
            parts: dict[tuple[str, str], list[tuple[str, float]]] = {}
            for name, sha, reference, weight in db.execute(
                "SELECT name, sha, reference, weight FROM parts ORDER BY name, sha, position"
            ):
                parts.setdefault((name, sha), []).append((reference, weight))
            return (
                [_named(row) for row in db.execute(f"SELECT {_NAME_COLUMNS} FROM names")],  # noqa: S608 - columns of this file
                [
                    self._held(row, parts.get((row[0], row[1]), []))
                    for row in db.execute(f"SELECT {_VERSION_COLUMNS} FROM versions")  # noqa: S608
                ],
            )

        return await self._file.read(read)

    async def save(self, changes: Changes) -> None:
        """Write all of it or nothing; it is on the disk when this returns. Raises ConsiliumError(disk_full | state_damaged)."""

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM versions WHERE name = ? AND sha = ?", changes.gone_versions)
            db.executemany(
                "DELETE FROM names WHERE name = ?", [(name,) for name in changes.gone_names]
            )
            for row in changes.names:
                _write(db, "names", _NAME_COLUMNS, "name", _name_row(row))
            for held in changes.versions:
                _write(db, "versions", _VERSION_COLUMNS, "name, sha", _version_row(held))
                _write_parts(db, held.version)

        await self._file.write(write)

    async def aclose(self) -> None:
        """Let go of the file."""
        await self._file.aclose()

    def _held(self, row: Sequence[Any], parts: Sequence[tuple[str, float]]) -> Held:
        (name, sha, number, rank, file_bytes, stored_at, is_3d, base, proof) = row[:9]
        (proof_json, fingerprint, remarks, address, slot_hits, ram_hits, misses, used) = row[9:17]
        sizes: dict[str, int] = json.loads(file_bytes)
        version = StoredVersion(
            name=name,
            sha=sha,
            lora_int_id=number,
            path=self._folder(sha),
            rank=rank,
            size_bytes=sum(sizes.values()),
            stored_at=stored_at,
            is_3d=bool(is_3d),
            base=base,
            proof=Proof(proof),
            proof_json=proof_json,
            fingerprint=fingerprint,
            remarks=tuple(json.loads(remarks)),
            parts=tuple(parts),
            trials=trials.from_text(row[17]),
        )
        return Held(version, sizes, address, Uses(slot_hits, ram_hits, misses, used))


def _write(
    db: sqlite3.Connection, table: str, columns: str, key: str, row: Sequence[object]
) -> None:
    """Insert a row, or change the one with the same key; columns that are not named stay as they are."""
    named = columns.split(", ")
    places = ", ".join("?" * len(named))
    changed = ", ".join(
        f"{column} = excluded.{column}" for column in named if column not in key.split(", ")
    )
    db.execute(
        f"INSERT INTO {table} ({columns}) VALUES ({places}) ON CONFLICT ({key}) DO UPDATE SET {changed}",  # noqa: S608
        row,
    )


def _write_parts(db: sqlite3.Connection, version: StoredVersion) -> None:
    db.execute("DELETE FROM parts WHERE name = ? AND sha = ?", (version.name, version.sha))
    db.executemany(
        "INSERT INTO parts VALUES (?, ?, ?, ?, ?)",
        [
            (version.name, version.sha, position, reference, weight)
            for position, (reference, weight) in enumerate(version.parts)
        ],
    )


def _name_row(row: Named) -> tuple[object, ...]:
    said = row.registered
    settings = {key: getattr(said, key) for key in _SETTINGS}
    return (
        said.name,
        said.current,
        str(said.placement),
        int(said.from_config),
        json.dumps(settings, ensure_ascii=False),
        row.origin,
        row.entry,
        row.waiting,
    )


def _named(row: Sequence[Any]) -> Named:
    name, current, placement, from_config, settings, origin, entry, waiting = row
    said: dict[str, Any] = {
        key: tuple(value) if key in _LISTS else value
        for key, value in json.loads(settings).items()
        if key in _SETTINGS
    }
    registered = Registered(
        name=name,
        current=current,
        placement=Placement(placement),
        from_config=bool(from_config),
        **said,
    )
    return Named(registered, origin, entry, waiting)


def _version_row(held: Held) -> tuple[object, ...]:
    version, uses = held.version, held.uses
    return (
        version.name,
        version.sha,
        version.lora_int_id,
        version.rank,
        json.dumps(dict(held.file_bytes)),
        version.stored_at,
        int(version.is_3d),
        version.base,
        str(version.proof),
        version.proof_json,
        version.fingerprint,
        json.dumps(list(version.remarks), ensure_ascii=False),
        held.address,
        uses.slot_hits,
        uses.ram_hits,
        uses.misses,
        uses.last_used_at,
        trials.as_text(version.trials),
    )
