"""Makes or downloads every model of the configuration: `python -m consilium.supervisor.model_step --state DIR`, one part of the cluster that ends when it is done.

Writes how far it is into logs/model.progress, one line, replaced as it goes, and makes logs/model.ready at the end. Does not know engines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consilium.kernel.errors import ConsiliumError
from consilium.kernel.process import tell
from consilium.supervisor.state_folder import StateFolder

PROGRESS_FILE: Final = "model.progress"
READY_FILE: Final = "model.ready"
_EVERY_S: Final = 0.1


def models_of(config: Mapping[str, object]) -> tuple[str, ...]:
    """Return the models that engines of ours will load, each once, the core's first."""
    executors = config.get("executors")
    rows = executors.values() if isinstance(executors, Mapping) else ()
    names = [
        config["model"],
        *(
            row["model"]
            for row in rows
            if isinstance(row, Mapping) and row.get("kind", "engine") == "engine"
        ),
    ]
    return tuple(dict.fromkeys(str(name) for name in names))


def progress_line(what: str, done: int, total: int | None) -> str:
    """Return how far a step is, for people."""
    if not total:
        return what if not done else f"{what} ({_mib(done)})"
    return f"{what} ({_mib(done)} of {_mib(total)}, {100 * done // total} %)"


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


class ProgressFile:
    """The line that says how far the step is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0.0

    def write(self, line: str) -> None:
        """Replace the line."""
        aside = self._path.with_suffix(".new")
        aside.write_text(line, encoding="utf-8")
        aside.replace(self._path)
        self._at = time.monotonic()

    def __call__(self, step: object) -> None:
        """Take a report of demo.folder: an object with what, done and total."""
        if time.monotonic() - self._at >= _EVERY_S:
            self.write(progress_line(step.what, step.done, step.total))  # type: ignore[attr-defined]


def main(argv: list[str] | None = None) -> int:
    """Make what is missing. Return 0, or the exit code of the error."""
    parser = argparse.ArgumentParser(prog="python -m consilium.supervisor.model_step")
    parser.add_argument("--state", required=True, type=Path)
    folder = StateFolder(parser.parse_args(argv).state)
    progress = ProgressFile(folder.logs / PROGRESS_FILE)
    from consilium.demo.model import resolve

    try:
        for name in models_of(json.loads(folder.config.read_text(encoding="utf-8"))):
            model = resolve(name, folder.models, progress)
            print(f"{name}: {model.note}; {model.path} ({model.revision})")
    except ConsiliumError as err:
        tell(sys.stderr, err)
        return err.row.exit_code
    (folder.logs / READY_FILE).touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
