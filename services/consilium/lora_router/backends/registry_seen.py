"""A registry as `consilium doctor` sees it, whether or not the room that owns it runs: nothing is locked, changed or repaired.

Knows the file's tables. Does not know what its rows mean for engines.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from consilium.lora_router.backends.registry import STEPS
from consilium.lora_router.identity import MIX, reference
from consilium.lora_router.ports import Proof

KNOWN: Final = STEPS[-1].version
"""Version of the file that this program writes."""


@dataclass(frozen=True, slots=True)
class VersionSeen:
    """One stored version.

    answers     whether it is the one that answers by its name
    is_forced   whether its owner insists, whatever a canary says
    file_bytes  size of each of its files, as they were stored
    """

    reference: str
    sha: str
    proof: Proof
    stored_at: float
    answers: bool = False
    is_forced: bool = False
    file_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RegistrySeen:
    """What a file holds.

    version  of its tables; 0 = there is no file
    damage   why it cannot be read, or ""
    """

    version: int = 0
    damage: str = ""
    versions: tuple[VersionSeen, ...] = ()

    @property
    def is_newer(self) -> bool:
        """Whether a newer program wrote it."""
        return self.version > KNOWN


def seen(path: Path) -> RegistrySeen:
    """Return what a registry holds. Never raises for what is in the file; a newer one is not read further."""
    if not path.is_file():
        return RegistrySeen()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0)) as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > KNOWN:
                return RegistrySeen(version)
            current = dict(db.execute("SELECT name, current FROM names").fetchall())
            rows = db.execute(
                "SELECT name, sha, proof, proof_json, stored_at, file_bytes FROM versions"
            ).fetchall()
    except sqlite3.Error as err:
        return RegistrySeen(KNOWN, str(err))
    try:
        return RegistrySeen(version, "", tuple(_version(row, current) for row in rows))
    except (ValueError, TypeError) as err:
        return RegistrySeen(version, f"a row cannot be read: {err}")


def _version(row: tuple[str, str, str, str, float, str], current: Mapping[str, str]) -> VersionSeen:
    name, sha, proof, figures, stored_at, file_bytes = row
    told = json.loads(figures or "{}")
    return VersionSeen(
        reference(name, sha),
        sha,
        Proof(proof),
        stored_at,
        name != MIX and current.get(name) == sha,
        isinstance(told, dict) and bool(told.get("forced")),
        json.loads(file_bytes),
    )
