"""Which names are told apart in the metrics: the first so many of each kind, and for ever the same ones in all processes of a node.

Keys, roles and adapters are named by people, or by programs that make them by the thousand. Each name is a series, which Prometheus keeps for weeks: so the first
ones are told apart, and those that come later are `other`. Processes note the names in a file that they share, so that copies of a gateway, and the next one
after a restart, tell the same ones apart. Knows names. Does not know metrics.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Final

OTHER: Final = "other"
"""Stands for what is above a bound."""
LONGEST_NAME: Final = 100
"""Characters of a name that are shown."""


class Names:
    """The names that this process tells apart.

    folder  where they are noted for all processes of the node; None = nowhere
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, set[str]] = {}

    def kept(self, kind: str, name: str, most: int) -> str:
        """Return a name, or `other` if `most` names of this kind are told apart already.

        kind  what is named, such as key; a word that is good for a file

        A name that is known, and one above the bound, costs no look at the file.
        """
        name = name[:LONGEST_NAME]
        known = self._known.setdefault(kind, set())
        if name in known:
            return name
        if len(known) < most:
            self._learn(kind, name, most, known)
        return name if name in known else OTHER

    def _learn(self, kind: str, name: str, most: int, known: set[str]) -> None:
        """Take over what others have noted, and note a name if there is room for it."""
        if self._folder is None:
            known.add(name)
            return
        try:
            with (self._folder / f"{kind}.names").open("a+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # for a line or two; closing gives it back
                file.seek(0)
                known.update(_names(file.read()))
                if name not in known and len(known) < most:
                    file.write(json.dumps(name) + "\n")
                    known.add(name)
        except OSError:  # a full disk: then this process tells its own names apart
            known.add(name)


def _names(text: str) -> list[str]:
    """Return the names of a file; a line that was not written to its end is none."""
    found = []
    for line in text.splitlines():
        try:
            name = json.loads(line)
        except ValueError:
            continue
        if isinstance(name, str):
            found.append(name)
    return found
